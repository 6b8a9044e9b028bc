"""The images of a run, as a predictor reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bcd.config.export import ExportConfig
from bcd.config.input_views import PLAIN_VIEW, InputView
from bcd.config.schema import DataConfig
from bcd.data.catalog import Catalog
from bcd.data.input_views import views_to_read
from bcd.data.items import Wanted
from bcd.data.load import load_catalog
from bcd.data.sandbox import read_all
from bcd.data.splits.split import recorded_indices
from bcd.errors import BcdError
from bcd.inference.checkpoint import Card
from bcd.storage import typed_path

_AHEAD = 16  # images that are read while others are answered


class RunImages:
    """The images that a checkpoint was trained, chosen and tested on, found by sha256.

    Args:
        cfg: Says where they are now, and how many processes read them.
        card: Of the checkpoint.

    Raises:
        BcdError: They are not there.
    """

    def __init__(self, cfg: ExportConfig, card: Card) -> None:
        root = typed_path(card.data_root if cfg.data.root is None else cfg.data.root)
        if not root.exists():
            raise BcdError(
                f"precision={cfg.precision} needs the run's images, which are not at {root}: give "
                "data.root=<where they are>"
            )
        self._asked = cfg.precision
        recorded = {**card.config["data"], "generate": None, "root": str(root)}
        self.catalog: Catalog = load_catalog(DataConfig(**recorded), card.classes)
        self.card, self._workers = card, cfg.data.num_workers

    def indices(self, subset: str, all_of: bool = False) -> list[int]:
        """Indices in the catalog of a subset's images.

        Args:
            subset: `train`, `val` or `test`.
            all_of: Whether every image must be there, with the class of the run.

        Raises:
            BcdError: Some are not there, or have another class, and all must be.
        """
        recorded = self.card.split[subset]
        found = recorded_indices(self.catalog, recorded)
        images, classes = self.catalog.images, self.catalog.classes
        now = Counter(f"{images[i].sha256} {classes[images[i].label]}" for i in found)
        if all_of and now != Counter(recorded):
            same = (now & Counter(recorded)).total()
            raise BcdError(
                f"precision={self._asked}: only {same} of the run's {len(recorded)} {subset} "
                f"images are in {self.catalog.root}, with the same classes: give "
                "data.root=<where they are>"
            )
        return found

    def labels(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Classes of images, (n,)."""
        return np.array([self.catalog.images[i].label for i in indices], np.int64)

    def groups(self, indices: Sequence[int]) -> list[str]:
        """The recorded group of each image; empty if there is none."""
        return [self.card.groups.get(self.catalog.images[i].sha256, "") for i in indices]

    def read(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yields what a predictor reads of each image, with a first axis of length 1.

        Raises:
            BcdError: An image cannot be read.
        """
        for packed in self._read(indices, views_to_read(self.card.input_views)):
            yield packed[None]

    def read_plain(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yields each image resized to the largest side that is read, (side, side, 3).

        Raises:
            BcdError: An image cannot be read.
        """
        yield from self._read(indices, (InputView(PLAIN_VIEW, max(self.card.sides)),))

    def _read(
        self, indices: Sequence[int], views: tuple[InputView, ...]
    ) -> Iterator[NDArray[np.uint8]]:
        wanted = Wanted(views, self.card.mask_scale_bar)
        files = [self.catalog.root / self.catalog.images[i].path for i in indices]
        for file, answer in read_all(files, wanted, self._workers, ahead=_AHEAD):
            if isinstance(answer, str):
                raise BcdError(f"{file}: {answer}")
            yield answer
