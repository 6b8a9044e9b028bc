"""Views: augmented versions of an image. View v of image i depends only on (seed, i, v)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bcd.config.input_views import PLAIN_VIEW, WHOLE, InputView, parse_views
from bcd.config.schema import AugmentConfig
from bcd.data.catalog import Catalog, ImageRecord
from bcd.data.input_views import Pixels, cut_rois, make_views, pack, prepare_sides, sides_of
from bcd.data.matching import Match
from bcd.data.reading import mask_scale_bar, read_image, read_verified
from bcd.data.workspace import Workspace, pixels_part

# The image without augmentation, only resized: used for val, test and predict.
PLAIN = -1

# A key identifies an item of a dataset: (index of the image, view).
Key = tuple[int, int]


class Augmenter:
    """Makes views with albumentations.

    Albumentations gives one seed to every transform of a pipeline, so that the flip and the
    brightness of an image would be correlated; here each transform has its own seed.

    Args:
        cfg: The `augment` group; its transforms take and return uint8 RGB.
        seed: The run's seed.

    Attributes:
        before_roi: Whether it changes the image before its white cells are found.
    """

    before_roi = False

    def __init__(self, cfg: AugmentConfig, seed: int) -> None:
        self.cfg = cfg
        self.seed = seed
        self._pipeline: Any = None

    @property
    def changes(self) -> bool:
        """Whether views differ from the image."""
        return bool(self.cfg.transforms)

    def check(self) -> None:
        """Checks that the pipeline can be built, before other threads or processes build it.

        Raises:
            ConfigError: A transform or one of its arguments is unknown.
        """
        from bcd.config.check import check_targets

        check_targets(self.cfg.transforms, "augment.transforms")

    def __call__(self, image: NDArray[np.uint8], sha256: str, view: int) -> NDArray[np.uint8]:
        """Returns a view of an image, same shape (size, size, 3)."""
        if view == PLAIN or not self.changes:
            return image
        if self._pipeline is None:
            self._pipeline = _build(self.cfg.transforms)
        digest = hashlib.sha256(f"{self.seed} {sha256} {view}".encode()).digest()
        _seed_each(self._pipeline, np.random.SeedSequence(int.from_bytes(digest[:16], "little")))
        return np.asarray(self._pipeline(image=image)["image"], dtype=np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"cfg": self.cfg, "seed": self.seed, "_pipeline": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _build(transforms: Sequence[Any]) -> Any:
    import cv2

    from bcd.config.check import instantiate

    cv2.setNumThreads(0)  # the loaders' workers and the forward pass already use all cores
    import albumentations

    return albumentations.Compose([instantiate(node) for node in transforms])


def _seed_each(transform: Any, sequence: np.random.SeedSequence) -> None:
    import albumentations

    # Only composed transforms have children: the `transforms` of ColorJitter are plain functions.
    children = transform.transforms if isinstance(transform, albumentations.BaseCompose) else []
    if not children:
        transform.set_random_seed(int(sequence.generate_state(1)[0]))
        return
    own, *inner = sequence.spawn(len(children) + 1)
    # Composed transforms also draw random numbers (which children to apply), from their own seed.
    seed = int(own.generate_state(1)[0])
    transform.random_generator = np.random.default_rng(seed)
    transform.py_random.seed(seed)
    for child, child_sequence in zip(children, inner, strict=True):
        _seed_each(child, child_sequence)


class Source(Dataset[Any]):
    """What a loader loads from.

    Attributes:
        wants_workers: Whether making a sample takes long enough to use worker processes.
        most_pixels: Pixels of the largest image that a sample is made from; 0 if unknown.
    """

    wants_workers = True
    most_pixels = 0

    @staticmethod
    def collate(samples: Sequence[Any]) -> Any:
        """Makes a batch of samples."""
        raise NotImplementedError


class ViewSource(Source):
    """Returns views by key, in the network's input format, with their labels.

    Attributes:
        approximation: What of them is approximate, and how closely; empty if they are exact.
    """

    approximation = ""

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        """A view and its label."""
        raise NotImplementedError

    @staticmethod
    def collate(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """Stacks samples into inputs and labels (N,).

        Inputs are images (N, 3, size, size) uint8, channels last, or the bytes (N, all views) of
        several input views.
        """
        pixels = torch.stack([sample[0] for sample in samples])
        inputs = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels
        return inputs, torch.tensor([sample[1] for sample in samples])


class ImageViews(ViewSource):
    """Images by key: decodes, resizes, and makes the view.

    Args:
        root: Folder that the images' paths are relative to.
        images: The images; a key's index refers to them.
        size: Side in pixels of the input views that name none.
        augmenter: Makes the views.
        mask: Whether the corner with the scale bar is covered.
        kept: Resized images that the scan kept; they are not decoded again.
        views: As `model.views`.
        match: How images of another site are matched to those of training; None for not at all.
        roi: As `data.roi`.

    Attributes:
        inputs: The input views, of which every sample has all.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[ImageRecord],
        size: int,
        augmenter: Augmenter,
        mask: bool = False,
        kept: Workspace | None = None,
        views: Sequence[str] = (PLAIN_VIEW,),
        match: Match | None = None,
        roi: str = WHOLE,
    ) -> None:
        self.root = root
        self.images = images
        self.inputs = parse_views(views, size, roi)
        self.augmenter = augmenter
        self.mask = mask
        self.kept = kept
        self.match = match
        self.most_pixels = max((p.width * p.height for p in images), default=0)

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        size: int,
        augmenter: Augmenter,
        mask: bool,
        views: Sequence[str] = (PLAIN_VIEW,),
        match: Match | None = None,
        roi: str = WHOLE,
    ) -> ImageViews:
        """The images of a catalog, with what its scan kept."""
        kept = catalog.kept
        return cls(catalog.root, catalog.images, size, augmenter, mask, kept, views, match, roi)

    def __len__(self) -> int:
        return len(self.images)

    def resized(self, index: int, verify: bool = False) -> dict[int, Pixels]:
        """The decoded image by side: resized to each (side, side, 3) that the views need, RGB.

        Args:
            index: Of the image.
            verify: Whether to check the file's sha256.

        Raises:
            ImageError: The file cannot be read, if `verify` is false.
            BcdError: The file cannot be read or has changed, if `verify` is true.
        """
        image = self.images[index]
        path = self.root / image.path
        found = self._kept(path, image.sha256)
        if found is not None:
            return found
        pixels = read_verified(path, image.sha256).pixels if verify else read_image(path)
        return prepare_sides(pixels, self.inputs, self.mask, self.match)

    def _kept(self, path: Path, sha256: str) -> dict[int, Pixels] | None:
        """What `resized` returns, as far as the scan kept every side."""
        if self.kept is None or self.match is not None:  # it was resized without matching
            return None
        found = {}
        for side in sides_of(self.inputs):
            fitted = self.kept.get(path, sha256, pixels_part(side))
            if fitted is None:
                return None
            found[side] = mask_scale_bar(fitted) if self.mask else fitted
        return found

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        """Pixels of a view, uint8, and the label: what `pack` makes of the input views."""
        image = self.images[key[0]]
        augment = partial(self.augmenter, sha256=image.sha256, view=key[1])
        (parts,) = self.make(self.resized(key[0]), [augment])
        return torch.from_numpy(np.ascontiguousarray(pack(parts))), image.label

    def make(
        self, resized: dict[int, Pixels], augments: Sequence[Callable[[Pixels], Pixels]]
    ) -> Iterator[list[Pixels]]:
        """Yields the input views of an image once for each augmentation.

        Cells are found once, and then augmented. Corruptions come first: they change the image that
        cells are found on.

        Args:
            resized: The image by side.
            augments: Functions of pixels, such as the augmenter for one view.
        """
        if self.augmenter.before_roi:
            for change in augments:
                changed = {side: change(pixels) for side, pixels in resized.items()}
                yield make_views(cut_rois(changed, self.inputs), self.inputs)
            return
        cut = cut_rois(resized, self.inputs)
        for augment in augments:
            yield make_views(cut, self.inputs, augment)

    def of_inputs(self, inputs: Sequence[InputView]) -> ImageViews:
        """The same images with other input views."""
        other = object.__new__(ImageViews)
        vars(other).update(vars(self), inputs=tuple(inputs))
        return other

    def described(self) -> ImageViews:
        """The same images as out-of-distribution detection gets them."""
        return self.of_inputs([self.inputs[0].described])

    def __getstate__(self) -> dict[str, Any]:
        """Other processes than forked ones have no access to the workspace."""
        return {**vars(self), "kept": None}
