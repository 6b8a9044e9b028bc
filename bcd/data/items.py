"""Images to predict, and how they are read into what a network gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bcd.config.input_views import InputView
from bcd.data.files import Gate, ImageError, check_length
from bcd.data.input_views import cut_rois, make_views, pack, prepare_sides
from bcd.data.matching import Match
from bcd.data.opening import PIXELS
from bcd.data.reading import decode_image, read_image
from bcd.data.shown import Picture

Answer = NDArray[np.uint8] | str  # pixels as `pack` or a picture has them, or why there are none


@dataclass(frozen=True)
class Item:
    """An image to read: a file, or the bytes of one.

    Attributes:
        name: What rows call it.
        path: The file; None if there are bytes.
        data: An encoded image, for example a member of an archive; None if there is a file.
        reason: Why there is neither, for example for a link in an archive; empty if there is.
        picture: What is read is this picture of it; None: what a network gets.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    reason: str = ""
    picture: Picture | None = None

    @classmethod
    def of(cls, given: Path | Item) -> Item:
        """The item itself, or that of a file, which has the file's path as name."""
        return given if isinstance(given, Item) else cls(str(given), given)


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
        """Reads an image in this process."""
        one = Item.of(item)
        make = self.pack if one.picture is None else one.picture.draw
        return or_reason(lambda: np.ascontiguousarray(make(_decode(one, gate))))

    def pack(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One array for the input views of an image, RGB, (height, width, 3)."""
        resized = prepare_sides(image, self.inputs, self.mask, self.match)
        return np.ascontiguousarray(pack(make_views(cut_rois(resized, self.inputs), self.inputs)))


def or_reason(read: Callable[[], NDArray[np.uint8]]) -> Answer:
    """The pixels that a function reads, or why it cannot, whatever it raises."""
    try:
        return read()
    except ImageError as error:
        return str(error)
    except MemoryError:
        return "cannot be decoded (takes too much memory)"
    except Exception as error:  # any other error rejects only what was to be read
        return f"cannot be decoded ({type(error).__name__})"


def _decode(item: Item, gate: Gate) -> NDArray[np.uint8]:
    if item.reason:
        raise ImageError(item.reason)
    if item.data is None:
        assert item.path is not None
        return read_image(item.path, 1, gate)
    check_length(len(item.data))
    return decode_image(item.data, 1, gate)
