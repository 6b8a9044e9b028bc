"""The LightningDataModule: loads the train, val and test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from bcd.config.compose import as_config
from bcd.config.input_views import PLAIN_VIEW, parse_views
from bcd.config.schema import AugmentConfig, DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.input_views import sides_of
from bcd.data.load import load_catalog
from bcd.data.loading import ViewSampler, make_loader
from bcd.data.quality.profile import profile_images
from bcd.data.splits.split import Split, make_split
from bcd.data.views import Augmenter, ImageViews, ViewSource


class SmearDataModule(pl.LightningDataModule):
    """Batches of images and labels of the train, val and test sets.

    A batch is (images, labels): uint8 (N, 3, size, size) in channels-last memory, int64 (N,). With
    several input views it is (N, bytes of all views). Subtracting the mean and dividing by the
    standard deviation is part of the model, so that a checkpoint contains it.

    `SmearDataModule.load_from_checkpoint` builds the module that a checkpoint was trained with. The
    groups may be given as mappings; missing keys have the defaults of `conf/`.

    Args:
        data: The `data` group.
        split: The `split` group; None for its defaults.
        augment: The `augment` group; None for no augmentation.
        size: Height and width of the images in pixels.
        seed: Seed of the order and of the augmentation of training images.
        views: The input views, as `model.views`.
        catalog: The images; None to have `setup` read them from `data.root`.
        subsets: Which image is in which set; None to have `setup` split the catalog.

    Attributes:
        catalog: The images; set by `setup` where it was not given.
        split: Which image is in which set; likewise.
        images: All images by key, decoded, resized and augmented; likewise.
        source: Where loaders read from: `images`, or a faster source of the same samples.
        views: Number of different augmented views of an image.
    """

    catalog: Catalog
    split: Split
    images: ImageViews
    source: ViewSource

    def __init__(
        self,
        data: DataConfig | Mapping[str, Any],
        split: SplitConfig | Mapping[str, Any] | None = None,
        augment: AugmentConfig | Mapping[str, Any] | None = None,
        size: int = 224,
        seed: int = 0,
        views: Sequence[str] = (PLAIN_VIEW,),
        *,
        catalog: Catalog | None = None,
        subsets: Split | None = None,
    ) -> None:
        super().__init__()
        self._data = as_config(DataConfig, data)
        self._split = as_config(SplitConfig, split)
        self._augment = as_config(AugmentConfig, augment)
        self.save_hyperparameters(
            {
                "data": asdict(self._data),
                "split": asdict(self._split),
                "augment": asdict(self._augment),
                "size": size,
                "seed": seed,
                "views": list(views),
            },
            logger=False,
        )
        self._size, self._inputs = size, tuple(views)
        self.seed = seed
        # Without transforms all views are the image itself.
        self.views = self._augment.views if self._augment.transforms else 1
        self.batch_size = self._data.batch_size
        self._first_epoch = 0
        self._ready = catalog is not None and subsets is not None
        if catalog is not None and subsets is not None:
            self._use(catalog, subsets)

    def prepare_data(self) -> None:
        """Does `setup` in one process, so that it reads every file once; others find the caches.

        Raises:
            BcdError: As `setup`.
        """
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Reads the catalog and splits it, once; all stages share both.

        Args:
            stage: Lightning's name of the stage; ignored.

        Raises:
            BcdError: The images are not available, or cannot be split as asked.
        """
        if self._ready:
            return
        catalog = load_catalog(
            self._data, keep=sides_of(parse_views(self._inputs, self._size, self._data.roi))
        )
        self._use(catalog, make_split(catalog, self._split, profile_images(catalog)))

    def _use(self, catalog: Catalog, subsets: Split) -> None:
        self.catalog, self.split = catalog, subsets
        augmenter = Augmenter(self._augment, self.seed)
        mask = self._data.mask_scale_bar
        self.images = ImageViews.of(
            catalog, self._size, augmenter, mask, self._inputs, roi=self._data.roi
        )
        self.source = self.images
        self._ready = True

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented views of the train set, in an order that depends on seed and epoch."""
        return self._loader("train", self.views)

    def val_dataloader(self) -> DataLoader[Any]:
        """Plain images of the val set."""
        return self.plain_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Plain images of the test set."""
        return self.plain_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Plain images of the test set, in the same order."""
        return self.plain_loader("test")

    def plain_loader(self, subset: str) -> DataLoader[Any]:
        """Plain images of a subset in the catalog's order."""
        return self._loader(subset, 0)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores: the next epoch, as checkpoints are saved at an epoch's end."""
        return {"next_epoch": self.trainer.current_epoch + 1 if self.trainer else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with the epoch after the saved one.

        A resumed Trainer fetches its first batches before it sets the sampler's epoch.
        """
        self._first_epoch = int(state_dict["next_epoch"])

    def _loader(self, subset: str, views: int) -> DataLoader[Any]:
        rank = self.trainer.global_rank if self.trainer else 0
        world = self.trainer.world_size if self.trainer else 1
        indices = self.split.indices(subset)
        size = self.batch_size  # of all processes together
        labels = [self.catalog.images[i].label for i in indices]
        balanced = labels if views and self._data.balanced else None
        sampler = ViewSampler(indices, views, self.seed, rank, world, balanced, size)
        sampler.set_epoch(self._first_epoch)
        return make_loader(self.source, sampler, size // world, self._data.num_workers)

    def rows(self, step: int) -> int:
        """Number of images in training batch `step` of an epoch, over all processes."""
        count = len(self.split.indices("train"))
        return min(self.batch_size, count - step * self.batch_size)
