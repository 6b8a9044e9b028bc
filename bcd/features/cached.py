"""Cached features: replaces images by features from a bank, transparently for the classifier."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
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
from bcd.features.engines import engine_label, make_engine, with_engine
from bcd.features.extract import Extractor, Work
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
    """

    wants_workers = False

    def __init__(
        self, images: Sequence[ImageRecord], plain: Sequence[Rows], drawn: Sequence[Rows]
    ) -> None:
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
) -> Iterator[ViewSource]:
    """Replaces a network's frozen prefix by cached features while the block runs.

    Args:
        cfg: The `features` group.
        model: The `model` group that the network was built from.
        network: Within the block its frozen prefix passes on cached features unchanged.
        source: The images.
        needs: The images and views that will be requested.
        device: Where the network will run.

    Yields:
        The source to load from: the bank's, or `source` itself if nothing is frozen or cached.

    Raises:
        BcdError: The bank cannot be built.
    """
    if not cfg.bank or not len(network.prefix.blocks):
        source.augmenter.check()
        yield source
        return
    cached = bank_of(cfg, model, network.prefix, source, needs, device)
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
) -> BankedViews:
    """Computes what the feature bank lacks of a frozen prefix's outputs, and opens them.

    Raises:
        BcdError: The bank cannot be built.
    """
    return with_engine(
        cfg.engine, device, lambda engine: _fill(cfg, engine, model, prefix, source, needs, device)
    )


@dataclass(frozen=True)
class _Order:
    """What is requested of one bank, for an input view; augmented if it is of random views."""

    input_view: InputView
    drawn: bool
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


def _fill(
    cfg: FeaturesConfig,
    engine: str,
    model: ModelConfig,
    prefix: FrozenPrefix,
    source: ImageViews,
    needs: Sequence[Need],
    device: torch.device,
) -> BankedViews:
    label = engine_label(engine, device)
    plain = plain_key(model, prefix, label, cfg.dtype, source.mask, source.match)
    orders = [order for view in source.inputs for order in _orders(plain, view, source, needs)]
    images = source.images
    for order in orders:
        order.bank.load()
    lacking = {order.input_view.side for order in orders if order.works(images)}
    if lacking:
        # Before a bank is created: not every engine can run every network.
        made = {side: make_engine(engine, prefix, side, device) for side in lacking}
        with contextlib.ExitStack() as stack:
            # In the same order in all processes, so that no two wait for each other.
            for order in sorted(orders, key=lambda order: order.cache_key.key):
                stack.enter_context(order.bank.locked(order.cache_key))
                _remove_damaged(order.bank)
            works = [work for order in orders for work in order.works(images)]
            if works:
                Extractor(source, made, cfg.dtype).run(works)
    names = [image.sha256 for image in images]
    rows = [(order.drawn, Rows(order.bank, names, order.views)) for order in orders]
    plain_rows, drawn_rows = ([r for drawn, r in rows if drawn == of] for of in (False, True))
    return BankedViews(images, plain_rows, drawn_rows)


def _orders(
    plain: CacheKey, view: InputView, source: ImageViews, needs: Sequence[Need]
) -> list[_Order]:
    """One order per bank of an input view: one for unaugmented images, one for random views."""
    own = input_key(plain, view)
    changes = source.augmenter.changes
    drawn = [need for need in needs if changes and tuple(need.views) != (PLAIN,)]
    as_is = sorted({i for need in needs if need not in drawn for i in need.indices})
    orders = []
    if drawn:
        cache_key = view_key(own, source.augmenter.cfg, source.augmenter.seed)
        indices = sorted({i for need in drawn for i in need.indices})
        views = tuple(sorted({v for need in drawn for v in need.views}))
        orders.append(_Order(view, True, cache_key, Bank.of(cache_key), tuple(indices), views))
    if as_is:
        orders.append(_Order(view, False, own, Bank.of(own), tuple(as_is), (PLAIN,)))
    return orders


def _remove_damaged(bank: Bank) -> None:
    for shard in bank.load():
        say(f"feature bank: {shard.file.name} is damaged (wrong checksum); computing it again")
        try:
            shard.remove()
        except OSError as error:
            raise BcdError(f"feature bank: {shard.file}: {error.strerror}") from error
