"""The Lightning data module."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from bcd.config.schema import AugmentConfig, DataConfig
from bcd.data.catalog import Catalog
from bcd.data.loading import ViewSampler, make_loader
from bcd.data.splits.split import Split
from bcd.data.views import Augmenter, ImageViews, ViewSource


class SmearDataModule(pl.LightningDataModule):
    """Batches of images and labels for each subset.

    A batch is (images, labels): uint8 (N, 3, size, size) in channels-last memory, int64 (N,).
    Normalisation is part of the model, so that a checkpoint includes it.

    Args:
        catalog: The images.
        split: The train, val and test sets.
        data: The `data` group.
        augment: The `augment` group.
        size: Side of the images in pixels.
        seed: The run's seed.
    """

    def __init__(
        self,
        catalog: Catalog,
        split: Split,
        data: DataConfig,
        augment: AugmentConfig,
        size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.catalog = catalog
        self.split = split
        self.views = augment.views
        self.seed = seed
        self.batch_size = data.batch_size
        self.num_workers = data.num_workers
        self.balanced = data.balanced
        self._first_epoch = 0
        self.images = ImageViews(
            catalog.root,
            catalog.images,
            size,
            Augmenter(augment, seed),
            data.mask_scale_bar,
            catalog.kept,
        )
        # What is loaded from; may be replaced by a faster source of the same samples.
        self.source: ViewSource = self.images

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled views of the train set."""
        return self._loader("train", self.views)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores: the next epoch (it is saved at the end of one)."""
        return {"next_epoch": self.trainer.current_epoch + 1 if self.trainer else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with the epoch after the saved one.

        A resumed Trainer fetches its first batches before it sets the sampler's epoch.
        """
        self._first_epoch = int(state_dict["next_epoch"])

    def val_dataloader(self) -> DataLoader[Any]:
        """Unaugmented images of the val set."""
        return self.plain_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Unaugmented images of the test set."""
        return self.plain_loader("test")

    def first_views(self, most: int) -> DataLoader[Any]:
        """The first view of at most `most` evenly spaced images of the train set."""
        train = self.split.indices("train")
        keys: Any = [(i, 0) for i in train[:: -(-len(train) // most)]]
        return make_loader(self.source, keys, self.batch_size, self.num_workers)

    def plain_loader(self, subset: str) -> DataLoader[Any]:
        """Unaugmented images of a subset in the catalog's order."""
        return self._loader(subset, 0)

    def _loader(self, subset: str, views: int) -> DataLoader[Any]:
        rank = self.trainer.global_rank if self.trainer else 0
        world = self.trainer.world_size if self.trainer else 1
        indices = self.split.indices(subset)
        size = self.batch_size  # of all processes together
        labels = [self.catalog.images[i].label for i in indices]
        drawn = labels if views and self.balanced else None
        sampler = ViewSampler(indices, views, self.seed, rank, world, drawn, size)
        sampler.set_epoch(self._first_epoch)
        return make_loader(self.source, sampler, size // world, self.num_workers)

    def rows(self, step: int) -> int:
        """Number of images in a training batch, by its number in the epoch.

        Counts the images of all processes.
        """
        count = len(self.split.indices("train"))
        return min(self.batch_size, count - step * self.batch_size)
