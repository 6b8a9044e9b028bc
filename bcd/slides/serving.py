"""The process of a reader: reads regions of one slide for its parent, within limits."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from bcd.config.input_views import InputView
from bcd.data.dicom.parsing import import_pydicom
from bcd.data.files import ImageError
from bcd.data.items import Wanted, or_reason
from bcd.data.reader import bound_memory, bound_time, send
from bcd.slides.dicom import DicomSlide, is_dicom_slide
from bcd.slides.opening import Pixels, SlideFacts, SlideFile, shrunk

SECONDS = 10  # of processor time for a region, so that a busy machine rejects nothing
_MEMORY = 1 << 30  # bytes that a reader may use in addition to what it starts with


class Slide(Protocol):
    """An open slide, of which regions can be read."""

    facts: SlideFacts

    def read(self, level: int, region: tuple[int, int, int, int]) -> Pixels:
        """As `SlideFile.read`."""
        ...


@dataclass(frozen=True)
class Request:
    """A region to read.

    Attributes:
        level: Number of the level.
        region: Left, top, width and height in pixels of level 0.
        size: Width and height to which it is reduced; None for what the network gets of it.
    """

    level: int
    region: tuple[int, int, int, int]
    size: tuple[int, int] | None = None

    def to_line(self) -> str:
        """As a line of JSON."""
        return json.dumps([self.level, self.region, self.size])

    @classmethod
    def from_line(cls, line: bytes) -> Request:
        """What `to_line` gave."""
        level, region, size = json.loads(line)
        return cls(level, tuple(region), None if size is None else (size[0], size[1]))


def serve(path: str, inputs: Sequence[Sequence[Any]], mask: bool) -> None:
    """Reads regions until the parent closes the pipe.

    First it sends what the file says about itself, or why it cannot be opened.

    Args:
        path: The slide.
        inputs: The input views, as plain data.
        mask: Whether the corner with the scale bar is covered.
    """
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print must not reach the pipe
    wanted = Wanted(tuple(InputView(*one) for one in inputs), mask)
    file = Path(path)
    _import_reader(file)  # before memory is limited, as it does not depend on the file
    bound_memory(_MEMORY)
    bound_time(SECONDS)
    try:
        slide = open_slide(file)
    except ImageError as error:
        send(answers, json.dumps({"reason": str(error)}))
        return
    send(answers, json.dumps({"facts": slide.facts.to_plain()}))
    for line in questions:
        bound_time(SECONDS)
        answer = or_reason(partial(_read, slide, wanted, Request.from_line(line)))
        if isinstance(answer, str):
            send(answers, json.dumps({"reason": answer}))
        else:
            send(answers, json.dumps({"shape": answer.shape}))
            answers.write(answer.tobytes())
            answers.flush()


def open_slide(path: Path) -> Slide:
    """Opens a whole slide in any format.

    Raises:
        ImageError: It is no slide, or one that cannot be read tile by tile.
    """
    return DicomSlide(path) if is_dicom_slide(path) else SlideFile(path)


def _import_reader(path: Path) -> None:
    if not is_dicom_slide(path):
        import tiffslide  # noqa: F401

        return
    with contextlib.suppress(ImageError):  # said when the slide is opened
        import_pydicom()
        import pydicom.pixels.decoders  # noqa: F401


def _read(slide: Slide, wanted: Wanted, request: Request) -> Pixels:
    pixels = slide.read(request.level, request.region)
    return wanted.pack(pixels) if request.size is None else shrunk(pixels, request.size)
