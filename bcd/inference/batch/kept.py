"""Attributes of DICOM files that rows have columns for, because they were asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from types import TracebackType

from bcd.data.dicom.header import Header, is_dicom
from bcd.data.files import ImageError, begins_as_dicom
from bcd.data.items import Item, Wanted, read_item_header, with_bytes
from bcd.data.sandbox import Readers
from bcd.evaluation.predictions import Prediction

Found = Future[Header | str]


class KeptAttributes:
    """Reads attributes of images while these are predicted; use it in a `with` block.

    Args:
        keep: Keywords, as `check_keep` returned them; without any nothing is read.
        workers: 0 reads in this process; any other number or None in another one.
    """

    def __init__(self, keep: Sequence[str], workers: int | None) -> None:
        self._keep = tuple(keep)
        self._readers = Readers(Wanted((), mask=False), 1) if keep and workers != 0 else None
        self._waiting: deque[Found | None] = deque()

    def watch(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yields items, whose attributes are read meanwhile.

        DICOM files are passed on with their bytes, so that the attributes are those of the file
        that is predicted, even if another one gets its name now.
        """
        for item in items:
            if self._keep and may_have_header(item):
                own = with_bytes(item)
                self._waiting.append(self._ask(own))
                yield own
                continue
            if self._keep:
                self._waiting.append(None)
            yield item

    def _ask(self, item: Item) -> Found:
        if self._readers is not None:
            read = self._readers.header(item, self._keep)
            wait([read])  # otherwise the bytes of many would be held
            return read
        found: Found = Future()
        found.set_result(read_item_header(replace(item, keep=self._keep)))
        return found

    def add_to(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """The next predictions, in the order of the items, with the attributes of their images."""
        if not self._keep:
            return list(predictions)
        headers = [self._waiting.popleft() for _ in predictions]
        return [
            with_kept(prediction, self._keep, None if header is None else header.result())
            for prediction, header in zip(predictions, headers, strict=True)
        ]

    def __enter__(self) -> KeptAttributes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._readers is not None:
            self._readers.close()


def may_have_header(item: Item) -> bool:
    """Whether an item begins as a DICOM file does, whatever its name."""
    if item.reason:
        return False
    if item.data is not None:
        return is_dicom(item.data)
    if item.path is None:
        return False
    try:
        return begins_as_dicom(item.path)
    except ImageError:
        return False


def with_kept(
    prediction: Prediction, keep: Sequence[str], header: Header | str | None
) -> Prediction:
    """A prediction with the attributes of a header; empty ones if there is none."""
    kept = header.kept if isinstance(header, Header) else {}
    return replace(prediction, kept=tuple((keyword, kept.get(keyword, "")) for keyword in keep))
