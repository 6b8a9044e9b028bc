"""Divides a stream into batches without losing what came before a failure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batches_until_failure(items: Iterable[T], sizes: Iterable[int]) -> Iterator[list[T]]:
    """Yields items in batches, of which the last may be smaller.

    Args:
        items: The items.
        sizes: Number of items of each batch.

    Raises:
        Exception: What the iterator of the items raised, after all items before.
    """
    own = iter(items)
    for size in sizes:
        batch: list[T] = []
        failure: Exception | None = None
        try:
            for item in islice(own, size):
                batch.append(item)
        except Exception as error:
            failure = error
        if batch:
            yield batch
        if failure is not None:
            raise failure
        if not batch:
            return


def batch_sizes(size: int, part: int) -> Iterator[int]:
    """Sizes of batches, of which none goes beyond a multiple of `part` images."""
    while True:
        yield from (min(size, part - done) for done in range(0, part, size))
