"""Images to predict, and how they are read into what a network gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bcd.config.input_views import InputView
from bcd.data.dicom.header import Header
from bcd.data.files import Gate, ImageError, check_length, read_bytes, room_for
from bcd.data.frames import split_frame
from bcd.data.input_views import cut_rois, make_views, pack, prepare_sides
from bcd.data.matching import Match
from bcd.data.opening import PIXELS
from bcd.data.reading import decode
from bcd.data.shown import Picture

T = TypeVar("T")

Answer = NDArray[np.uint8] | str  # pixels as `pack` or a picture has them, or why there are none


class Fault(str):
    """A reason for which another try may be better: it need not be the image's fault.

    A reading process has ended or was too slow: also the system may end or stop it.
    """

    __slots__ = ()


@dataclass(frozen=True)
class Item:
    """An image to read: a file, or the bytes of one.

    Attributes:
        name: What rows call it.
        path: The file; None if there are bytes.
        data: An encoded image, for example a member of an archive; None if there is a file.
        reason: Why there is neither, for example for a link in an archive; empty if there is.
        picture: What is read is this picture of it; None: what a network gets.
        frame: Number of the picture in a DICOM file of several, from 1 on; None for the only one.
        keep: Keywords of attributes. What is read is then the header of a DICOM file, with these.
        match: How it is matched, instead of as `Wanted` says; None for as that says.
        archive: The archive that it is a member of, and what rows call that; None if it is none.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    reason: str = ""
    picture: Picture | None = None
    frame: int | None = None
    keep: tuple[str, ...] | None = None
    match: Match | None = None
    archive: tuple[Path, str] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, given: Path | Item) -> Item:
        """The item itself, or that of an image, which has the path as name.

        Args:
            given: An item, a file, or `<file>#<number>` for a picture of a DICOM file of several.
        """
        if isinstance(given, Item):
            return given
        file, frame = split_frame(given)
        return cls(str(given), file, frame=frame)


@dataclass(frozen=True)
class Wanted:
    """The requested format of images.

    Attributes:
        inputs: The input views.
        mask: Whether the corner with the scale bar is covered.
        match: How images of another site are matched; None for not at all.
    """

    inputs: tuple[InputView, ...]
    mask: bool
    match: Match | None = None

    def read(self, item: Path | Item, gate: Gate = PIXELS) -> Answer:
        """Reads an image in this process; not for a header."""
        one = Item.of(item)
        wanted = self if one.match is None else replace(self, match=one.match)
        make = wanted.pack if one.picture is None else one.picture.draw
        return or_reason(lambda: np.ascontiguousarray(make(_decode(one, gate))))

    def pack(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One array for the input views of an image, RGB, (height, width, 3)."""
        resized = prepare_sides(image, self.inputs, self.mask, self.match)
        return np.ascontiguousarray(pack(make_views(cut_rois(resized, self.inputs), self.inputs)))


def read_item_header(item: Item) -> Header | str:
    """The header of a DICOM file, or why it cannot be read."""
    from bcd.data.dicom.reading import read_header

    with room_for(item.path):
        return or_reason(lambda: read_header(_bytes(item), item.keep or ()))


def or_reason(read: Callable[[], T]) -> T | str:
    """What a function reads, or why it cannot, whatever it raises."""
    try:
        return read()
    except ImageError as error:
        return str(error)
    except MemoryError:
        return "cannot be decoded (takes too much memory)"
    except Exception as error:  # any other error rejects only what was to be read
        return f"cannot be decoded ({type(error).__name__})"


def with_bytes(item: Item) -> Item:
    """An item with its file's bytes, so that all that is read of it is read of the same ones."""
    path = item.path
    if item.reason or path is None:
        return item
    found = or_reason(lambda: read_bytes(path))
    if isinstance(found, str):
        return replace(item, path=None, reason=found)
    return replace(item, path=None, data=found)


def _decode(item: Item, gate: Gate) -> NDArray[np.uint8]:
    with room_for(item.path):
        whole = item.picture is not None and item.picture.whole
        return decode(_bytes(item), 1, gate, item.frame, whole).pixels


def _bytes(item: Item) -> bytes:
    if item.reason:
        raise ImageError(item.reason)
    if item.data is None:
        assert item.path is not None
        return read_bytes(item.path)
    check_length(len(item.data))
    return item.data
