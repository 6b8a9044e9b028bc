"""Cached features: replaces images by features from a bank, transparently for the classifier."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bcd.config.input_views import InputView
from bcd.config.schema import FeaturesConfig, ModelConfig
from bcd.console import say
from bcd.data.catalog import ImageRecord
from bcd.data.views import PLAIN, ImageViews, Key, ViewSource
from bcd.errors import BcdError
from bcd.features.bank import Bank, Rows
from bcd.features.cache_key import CacheKey, input_key, plain_key, view_key
from bcd.features.engines import Engine, engine_label, make_engine, with_engine
from bcd.features.extract import Extractor, Work
from bcd.features.int8 import INT8, Agreement, Calibration, make_int8
from bcd.models.frozen_prefix import FrozenPrefix
from bcd.models.network import SmearNetwork


@dataclass(frozen=True)
class Need:
    """Images (indices in the catalog) and the views that will be requested of each."""

    indices: Sequence[int]
    views: Sequence[int]


class BankedViews(ViewSource):
    """What `ImageViews` gives, after the frozen prefix.

    Args:
        images: A key's index counts in them.
        plain: For each input view, rows of the unaugmented images; empty if none is requested.
        drawn: For each input view, rows of random views; empty if there is no augmentation.
        approximation: As `ViewSource`'s.
    """

    wants_workers = False

    def __init__(
        self,
        images: Sequence[ImageRecord],
        plain: Sequence[Rows],
        drawn: Sequence[Rows],
        approximation: str = "",
    ) -> None:
        self.approximation = approximation
        self._labels = [image.label for image in images]
        self._plain = plain
        self._drawn = drawn

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        """Features of a view, float32 of the prefix's output shape, and the label."""
        index, view = key
        rows = self._drawn
        if view == PLAIN or not rows:
            rows, view = self._plain, PLAIN
        parts = [one.get(index, view).astype(np.float32, copy=False) for one in rows]
        features = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return torch.from_numpy(features), self._labels[index]

    @staticmethod
    def collate(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """Stacks samples into features (N, ...), channels last if they are feature maps."""
        features = torch.stack([sample[0] for sample in samples])
        if features.ndim == 4:
            features = features.contiguous(memory_format=torch.channels_last)
        return features, torch.tensor([sample[1] for sample in samples])


@contextlib.contextmanager
def cached_source(
    cfg: FeaturesConfig,
    model: ModelConfig,
    network: SmearNetwork,
    source: ImageViews,
    needs: Sequence[Need],
    device: torch.device,
    training: bool = False,
) -> Iterator[ViewSource]:
    """Replaces a network's frozen prefix by cached features while the block runs.

    Args:
        cfg: The `features` group.
        model: The `model` group that the network was built from.
        network: Within the block its frozen prefix passes on cached features unchanged.
        source: The images.
        needs: The images and views that will be requested.
        device: Where the network will run.
        training: Whether random views are only trained on, so that `features.engine=int8` may
            approximate them; otherwise all features are exact.

    Yields:
        The source to load from: the bank's, or `source` itself if nothing is frozen or cached.

    Raises:
        BcdError: The bank cannot be built.
    """
    if not cfg.bank or not len(network.prefix.blocks):
        source.augmenter.check()
        yield source
        return
    cached = bank_of(cfg, model, network.prefix, source, needs, device, training)
    threads = torch.get_num_threads()
    network.prefix.skipped = True
    if network.prefix.pooled:
        torch.set_num_threads(1)  # a head's computations are too small to be split among threads
    try:
        yield cached
    finally:
        network.prefix.skipped = False
        torch.set_num_threads(threads)


def bank_of(
    cfg: FeaturesConfig,
    model: ModelConfig,
    prefix: FrozenPrefix,
    source: ImageViews,
    needs: Sequence[Need],
    device: torch.device,
    training: bool = False,
) -> BankedViews:
    """Computes what the feature bank lacks of a frozen prefix's outputs, and opens them.

    Args:
        cfg: The `features` group.
        model: The `model` group that the prefix was built from.
        prefix: The frozen prefix.
        source: The images.
        needs: The images and views that will be requested.
        device: Where the network will run.
        training: As in `cached_source`.

    Raises:
        BcdError: The bank cannot be built.
    """
    filling = _Filling(cfg, model, prefix, source, needs, device, training)
    return with_engine("auto" if cfg.engine == INT8 else cfg.engine, device, filling.fill)


@dataclass(frozen=True)
class _Order:
    """What is requested of one bank, for an input view; augmented if it is of random views."""

    input_view: InputView
    drawn: bool
    calibration: Calibration | None  # of features in int8
    cache_key: CacheKey
    bank: Bank
    indices: tuple[int, ...]
    views: tuple[int, ...]

    def works(self, images: Sequence[ImageRecord]) -> list[Work]:
        """What the bank lacks."""
        first: dict[str, int] = {}
        for index in self.indices:
            first.setdefault(images[index].sha256, index)
        lacking = self.bank.missing(list(first), self.views)
        return [
            Work(self.bank, tuple(first[name] for name in names), views, self.input_view)
            for views, names in lacking.items()
        ]

    def is_filled(self, images: Sequence[ImageRecord]) -> bool:
        """Whether the bank lacks nothing."""
        known = self.calibration is None or Agreement.read(self.bank.folder) is not None
        return known and not self.works(images)


@dataclass(frozen=True)
class _Filling:
    """Fills the banks of a prefix; the arguments are those of `bank_of`."""

    cfg: FeaturesConfig
    model: ModelConfig
    prefix: FrozenPrefix
    source: ImageViews
    needs: Sequence[Need]
    device: torch.device
    training: bool

    def fill(self, engine: str) -> BankedViews:
        """Computes with this engine what is missing, and opens the banks."""
        source, images = self.source, self.source.images
        label = engine_label(engine, self.device)
        plain = plain_key(self.model, self.prefix, label, self.cfg.dtype, source.mask, source.match)
        orders = [order for view in source.inputs for order in self._orders(plain, view)]
        for order in orders:
            order.bank.load()
        lacking = [order for order in orders if not order.is_filled(images)]
        if lacking:
            # Before a bank is created: not every engine can run every network.
            exact = self._engines(engine, [o for o in lacking if o.calibration is None])
            rough = self._rough_engines([o for o in lacking if o.calibration is not None])
            with contextlib.ExitStack() as stack:
                # In the same order in all processes, so that no two wait for each other.
                for order in sorted(orders, key=lambda order: order.cache_key.key):
                    stack.enter_context(order.bank.locked(order.cache_key))
                    _remove_damaged(order.bank)
                for order in lacking:
                    if order.calibration is not None:
                        rough[order.input_view.side][1].write(order.bank.folder)
                int8 = {side: quantized for side, (quantized, _) in rough.items()}
                self._run(int8, [o for o in orders if o.calibration is not None])
                self._run(exact, [o for o in orders if o.calibration is None])
        names = [image.sha256 for image in images]
        rows = [(order.drawn, Rows(order.bank, names, order.views)) for order in orders]
        plain_rows, drawn_rows = ([r for drawn, r in rows if drawn == of] for of in (False, True))
        return BankedViews(images, plain_rows, drawn_rows, _approximation(orders))

    def _engines(self, name: str, orders: Sequence[_Order]) -> dict[int, Engine]:
        sides = {order.input_view.side for order in orders}
        return {side: make_engine(name, self.prefix, side, self.device) for side in sides}

    def _rough_engines(self, orders: Sequence[_Order]) -> dict[int, tuple[Engine, Agreement]]:
        by_side = {order.input_view.side: order.calibration for order in orders}
        return {
            side: make_int8(self.prefix, side, self.source, calibration)
            for side, calibration in by_side.items()
            if calibration is not None
        }

    def _run(self, engines: Mapping[int, Engine], orders: Sequence[_Order]) -> None:
        works = [work for order in orders for work in order.works(self.source.images)]
        if works:
            Extractor(self.source, engines, self.cfg.dtype).run(works)

    def _orders(self, plain: CacheKey, view: InputView) -> list[_Order]:
        """One order per bank of an input view: of unaugmented images, and of random views."""
        source, own = self.source, input_key(plain, view)
        changes = source.augmenter.changes
        drawn = [need for need in self.needs if changes and tuple(need.views) != (PLAIN,)]
        as_is = sorted({i for need in self.needs if need not in drawn for i in need.indices})
        orders = []
        if drawn:
            indices = tuple(sorted({i for need in drawn for i in need.indices}))
            views = tuple(sorted({v for need in drawn for v in need.views}))
            calibration, of_drawn = None, own
            if self.training and self.cfg.engine == INT8:
                calibration = Calibration.of(indices, views)
                of_drawn = CacheKey({**own.facts, "engine": calibration.label(source)})
            cache_key = view_key(of_drawn, source.augmenter.cfg, source.augmenter.seed)
            bank = Bank.of(cache_key)
            orders.append(_Order(view, True, calibration, cache_key, bank, indices, views))
        if as_is:
            orders.append(_Order(view, False, None, own, Bank.of(own), tuple(as_is), (PLAIN,)))
        return orders


def _approximation(orders: Sequence[_Order]) -> str:
    """What is approximate, by the least exact bank; empty if nothing is."""
    found = [Agreement.read(o.bank.folder) for o in orders if o.calibration is not None]
    known = [agreement for agreement in found if agreement is not None]
    if len(known) < len(found):
        raise BcdError("feature bank: it was removed while it was in use; start the run again")
    return min(known, key=lambda a: a.lowest).sentence() if known else ""


def _remove_damaged(bank: Bank) -> None:
    for shard in bank.load():
        say(f"feature bank: {shard.file.name} is damaged (wrong checksum); computing it again")
        try:
            shard.remove()
        except OSError as error:
            raise BcdError(f"feature bank: {shard.file}: {error.strerror}") from error
