"""ImageStatistics: what one glance at an image tells. Each image is read once.

The audit asks of these whether two files show the same field, which images come from one slide,
and how well the class can be told from colour, corners and files. They are kept by the file's
sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.files import ImageError, read_bytes, room_for
from bcd.data.parallel import are_small, read_each
from bcd.data.quality.background import background_colours
from bcd.data.reading import BAR_WIDTH, decode_image, fit, jpeg_tables
from bcd.errors import BcdError
from bcd.storage import cache_dir, digest, replacing

_VERSION = 5  # raise it when the same image gives other numbers

SIDE = 224  # pixels that every image is brought to first
GREY = 32
TINY = 16
_CORNER, _CORNER_SHARE = 12, 0.2
_FRAME = 12  # pixels of a strip along a side
_PATCH = 12  # pixels of a side of a patch
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)


@dataclass(frozen=True)
class ImageStatistics:
    """What is known of n images, in the catalog's order.

    Attributes:
        pixels: sha256 of the decoded pixels, uint8 (n, 32); the same for files that differ only in
            their headers or in a lossless format.
        grey: The field in 32 x 32 grey values, uint8 (n, 32, 32).
        tiny: The same in colour, uint8 (n, 16, 16, 3).
        quantiles: Seven quantiles of each colour channel, float32 (n, 21), 0 to 255.
        glass: Five quantiles of each colour channel over pixels far from any cell, float32 (n, 15),
            not a number where too few are left (`bcd.data.quality.background`).
        stained: Share of the image that is no empty glass, float32 (n,).
        patches: Mean colour of a patch of 12 pixels a side in each corner, float32 (n, 12); at the
            bottom right it lies beside the place of the scale bar.
        background: Median colour of the brightest fifth, float32 (n, 3).
        middle: Median colour of the middle fifth, mostly red cells, float32 (n, 3).
        dark: Median colour of the darkest twentieth, mostly nuclei, float32 (n, 3).
        corners: The four corners (top left, top right, bottom left, bottom right) in grey, uint8
            (n, 4, 144).
        frame: Mean colour along the four sides, eight places each, uint8 (n, 96).
        encoding: Bytes of the file, bytes a pixel and the sums of both JPEG tables (0 where none),
            float32 (n, 4).
        brightness: Mean grey value, float32 (n,).
        sharpness: Standard deviation of the Laplacian, grey values, float32 (n,).
    """

    pixels: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    tiny: NDArray[np.uint8]
    quantiles: NDArray[np.float32]
    glass: NDArray[np.float32]
    stained: NDArray[np.float32]
    patches: NDArray[np.float32]
    background: NDArray[np.float32]
    middle: NDArray[np.float32]
    dark: NDArray[np.float32]
    corners: NDArray[np.uint8]
    frame: NDArray[np.uint8]
    encoding: NDArray[np.float32]
    brightness: NDArray[np.float32]
    sharpness: NDArray[np.float32]


Row = dict[str, NDArray[Any]]
Columns = dict[str, NDArray[Any]]
_NAMES = tuple(f.name for f in fields(ImageStatistics))


def image_statistics(catalog: Catalog) -> ImageStatistics:
    """Measures every image of a catalog; images measured before come from the cache.

    Raises:
        BcdError: An image has changed or gone since the catalog was made.
    """
    file = _memory_file(catalog.root)
    place, columns = _load(file)
    names = [image.sha256 for image in catalog.images]
    new: dict[str, Path] = {}
    for name, image in zip(names, catalog.images, strict=True):
        if name not in place:
            new.setdefault(name, catalog.root / image.path)
    if new:
        rows = read_each(_look, new, are_small(catalog), "Auditing the images")
        columns = _joined(columns, rows, len(place), len(new))
        place |= {name: len(place) + number for number, name in enumerate(new)}
        with contextlib.suppress(OSError):  # without a memory the next run looks again, no more
            keys = np.stack([np.frombuffer(bytes.fromhex(name), np.uint8) for name in place])
            with replacing(file) as stream:
                np.savez(stream, sha256=keys, **columns)  # type: ignore[arg-type]
    taken = [place[name] for name in names]
    if taken != list(range(len(place))):
        columns = {n: column[taken] for n, column in columns.items()}
    return ImageStatistics(**columns)


def _joined(old: Columns, rows: Iterator[Row], before: int, more: int) -> Columns:
    """Columns with rows added; each row is let go as soon as it is copied."""
    columns: Columns = {}
    for number, row in enumerate(rows, start=before):
        for name, value in row.items():
            if name not in columns:
                columns[name] = np.empty((before + more, *value.shape), value.dtype)
                columns[name][:before] = old.get(name, 0)
            columns[name][number] = value
    return columns


def _look(path: Path, sha256: str) -> Row:
    try:
        with room_for(path):
            data = read_bytes(path)
            image = decode_image(data)
            length, tables = len(data), jpeg_tables(data)
            found = hashlib.sha256(data).hexdigest()
            del data
    except ImageError as error:
        raise BcdError(f"{path} {error}; start again") from error
    if found != sha256:  # it is kept under this name
        raise BcdError(f"{path} has changed since the catalog was made; start again")
    height, width = image.shape[:2]
    content = hashlib.sha256(f"{image.shape}".encode())
    content.update(np.ascontiguousarray(image).data)
    pixels = content.digest()
    numbers = (length, length / (width * height), *tables)
    return {
        "pixels": np.frombuffer(pixels, np.uint8),
        "encoding": np.asarray(numbers, np.float32),
        **describe(fit(image, SIDE)),
    }


def describe(image: NDArray[np.uint8]) -> Row:
    """The fields of `ImageStatistics` that follow from one image's pixels (224, 224, 3)."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    small = cv2.resize(image, (GREY, GREY), interpolation=cv2.INTER_AREA)
    background, middle, dark = _tones(image)
    glass, stained = background_colours(image)
    return {
        "grey": cv2.resize(grey, (GREY, GREY), interpolation=cv2.INTER_AREA),
        "tiny": cv2.resize(small, (TINY, TINY), interpolation=cv2.INTER_AREA),
        "quantiles": _quantiles(image),
        "glass": glass,
        "stained": stained,
        "patches": _patches(image),
        "background": background,
        "middle": middle,
        "dark": dark,
        "corners": _corners(grey),
        "frame": _frame(image),
        "brightness": np.asarray(grey.mean(), np.float32),
        "sharpness": _spread(cv2.Laplacian(grey, cv2.CV_32F)),
    }


def _spread(values: cv2.typing.MatLike) -> NDArray[np.float32]:
    return np.asarray(cv2.meanStdDev(values)[1][0, 0], np.float32)


def _quantiles(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = []
    for channel in range(3):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().cumsum()
        found.append(np.searchsorted(counts, np.multiply(_QUANTILES, counts[-1])))
    return np.concatenate(found).astype(np.float32)


def _tones(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
    """Median colours of the brightest fifth, the middle fifth and the darkest twentieth."""
    colours = image[::3, ::3].reshape(-1, 3)
    order = np.argsort(colours @ np.array((77, 150, 29), np.int32))
    n = len(order)
    parts = (order[-n // 5 :], order[2 * n // 5 : 3 * n // 5], order[: n // 20])
    return tuple(np.median(colours[part], axis=0).astype(np.float32) for part in parts)


def _corners(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    reach = round(_CORNER_SHARE * SIDE)
    cut = (slice(None, reach), slice(-reach, None))
    small = [
        cv2.resize(grey[y, x], (_CORNER, _CORNER), interpolation=cv2.INTER_AREA).ravel()
        for y in cut
        for x in cut
    ]
    return np.stack(small).astype(np.uint8)


def _patches(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean colours of four patches; where `mask_scale_bar` mirrors, of what it would put there."""
    near, far = slice(None, _PATCH), slice(-_PATCH, None)
    beside = SIDE - 2 * round(BAR_WIDTH * SIDE)
    places = ((near, near), (near, far), (far, near), (far, slice(beside, beside + _PATCH)))
    return np.concatenate([image[place].mean(axis=(0, 1)) for place in places]).astype(np.float32)


def _frame(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    strips = (
        image[:_FRAME],
        image[-_FRAME:],
        image[:, :_FRAME].transpose(1, 0, 2),
        image[:, -_FRAME:].transpose(1, 0, 2),
    )
    means = [
        cv2.resize(np.ascontiguousarray(s), (8, 1), interpolation=cv2.INTER_AREA) for s in strips
    ]
    return np.stack(means).ravel().astype(np.uint8)


def _memory_file(root: Path) -> Path:
    return cache_dir() / "statistics" / f"{digest(f'{_VERSION} {root}')[:16]}.npz"


def _load(file: Path) -> tuple[dict[str, int], Columns]:
    """Row of each image that was looked at, and the columns; nothing where they are damaged."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in _NAMES}
            keys = [bytes(key).hex() for key in stored["sha256"]]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
        return {}, {}
    if any(len(column) != len(keys) for column in columns.values()):
        return {}, {}
    return {key: number for number, key in enumerate(keys)}, columns
