"""Image statistics: simple measurements of each image, cached by the sha256 of its file.

The audit uses them to find files with the same pixels, to estimate which images come from one
slide, and to test how well colour, corners and file properties alone predict the class.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.parallel import are_small, kept_or_read
from bcd.data.quality.background import QUANTILES, background_colours
from bcd.data.reading import BAR_WIDTH, Decoded, fit, read_verified
from bcd.storage import cache_dir, digest, replacing, written_path

_VERSION = 5  # increase it when the same image gives other numbers

SIDE = 224  # pixels to which every image is resized first
GREY = 32
TINY = 16
_CORNER, _CORNER_SHARE = 12, 0.2
_FRAME = 12  # pixels of a strip along a side
_PATCH = 12  # pixels of a side of a patch
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of n images, in the catalog's order.

    Attributes:
        pixels: sha256 of the decoded pixels, uint8 (n, 32); equal for files that differ only in
            their headers or in a lossless format.
        grey: The image resized to 32 x 32 grey values, uint8 (n, 32, 32).
        tiny: The image resized to 16 x 16 in colour, uint8 (n, 16, 16, 3).
        quantiles: Seven quantiles of each colour channel, float32 (n, 21), 0 to 255.
        background_quantiles: Five quantiles of each colour channel over pixels far from any cell,
            float32 (n, 15); NaN where too few are left (`bcd.data.quality.background`).
        stained: Share of the image that is not background, float32 (n,).
        patches: Mean colour of a 12 x 12 pixel patch in each corner, float32 (n, 12); at the bottom
            right it lies beside the place of the scale bar.
        background: Median colour of the brightest fifth, float32 (n, 3).
        middle: Median colour of the middle fifth, mostly red cells, float32 (n, 3).
        dark: Median colour of the darkest twentieth, mostly nuclei, float32 (n, 3).
        corners: The four corners (top left, top right, bottom left, bottom right) in grey, uint8
            (n, 4, 144).
        frame: Mean colour along the four sides, at eight places each, uint8 (n, 96).
        encoding: Bytes of the file, bytes per pixel and the sums of both JPEG quantization tables
            (0 if it is not a JPEG), float32 (n, 4).
        brightness: Mean grey value, float32 (n,).
        sharpness: Standard deviation of the Laplacian in grey values, float32 (n,); its square is
            the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000).
    """

    pixels: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    tiny: NDArray[np.uint8]
    quantiles: NDArray[np.float32]
    background_quantiles: NDArray[np.float32]
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


Fields = dict[str, NDArray[Any]]
Columns = dict[str, NDArray[Any]]

# The statistics of one image.
ROW = np.dtype(
    [
        ("pixels", np.uint8, (32,)),
        ("grey", np.uint8, (GREY, GREY)),
        ("tiny", np.uint8, (TINY, TINY, 3)),
        ("quantiles", np.float32, (3 * len(_QUANTILES),)),
        ("background_quantiles", np.float32, (3 * len(QUANTILES),)),
        ("stained", np.float32),
        ("patches", np.float32, (12,)),
        ("background", np.float32, (3,)),
        ("middle", np.float32, (3,)),
        ("dark", np.float32, (3,)),
        ("corners", np.uint8, (4, _CORNER**2)),
        ("frame", np.uint8, (96,)),
        ("encoding", np.float32, (4,)),
        ("brightness", np.float32),
        ("sharpness", np.float32),
    ]
)
PART = "statistics"  # name of a row in a workspace
FOLDER = "statistics"  # of the cache
_NAMES = tuple(f.name for f in fields(ImageStatistics))


def image_statistics(catalog: Catalog) -> ImageStatistics:
    """Measures every image of a catalog; images measured before come from the cache.

    Raises:
        BcdError: An image has changed or is missing since the catalog was made.
    """
    file = _cache_file(catalog.root)
    place, columns = _load(file)
    names = [image.sha256 for image in catalog.images]
    new: dict[str, Path] = {}
    for name, image in zip(names, catalog.images, strict=True):
        if name not in place:
            new.setdefault(name, catalog.root / image.path)
    if new:
        columns = _extended(columns, len(place), new, catalog)
        place |= {name: len(place) + number for number, name in enumerate(new)}
        with contextlib.suppress(OSError):  # without a cache the next run only takes longer
            keys = np.stack([np.frombuffer(bytes.fromhex(name), np.uint8) for name in place])
            root = np.asarray(written_path(str(catalog.root)))
            with replacing(file) as stream:
                np.savez(stream, root=root, sha256=keys, **columns)  # type: ignore[arg-type]
    taken = [place[name] for name in names]
    if taken != list(range(len(place))):
        columns = {n: column[taken] for n, column in columns.items()}
    return ImageStatistics(**columns)


def _extended(old: Columns, before: int, new: Mapping[str, Path], catalog: Catalog) -> Columns:
    """Columns with rows added for new images, given by their sha256."""
    columns: Columns = {}
    for name in _NAMES:
        kind, shape = ROW[name].base, ROW[name].shape
        columns[name] = np.empty((before + len(new), *shape), kind)
        columns[name][:before] = old.get(name, 0)
    small = are_small(catalog)
    for number, row in kept_or_read(_read, new, PART, catalog.kept, small, "Measuring the images"):
        for name, column in columns.items():
            column[before + number] = row[name]
    return columns


def _read(file: tuple[Path, str]) -> NDArray[Any]:
    image = read_verified(*file)
    return measure(image, image.length, fit(image.pixels, SIDE))


def measure(image: Decoded, length: int, fitted: NDArray[np.uint8]) -> NDArray[Any]:
    """Measures one image.

    Args:
        image: As decoded.
        length: Bytes of its file.
        fitted: Its pixels, resized to (224, 224, 3).

    Returns:
        A row of type `ROW`, shape ().
    """
    height, width = image.pixels.shape[:2]
    content = hashlib.sha256(f"{image.pixels.shape}".encode())
    content.update(np.ascontiguousarray(image.pixels).data)
    row = np.zeros((), ROW)
    row["pixels"] = np.frombuffer(content.digest(), np.uint8)
    row["encoding"] = (length, length / (width * height), *image.jpeg_tables)
    for name, value in describe(fitted).items():
        row[name] = value
    return row


def describe(image: NDArray[np.uint8]) -> Fields:
    """The fields of `ImageStatistics` that follow from one image's pixels (224, 224, 3)."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    small = cv2.resize(image, (GREY, GREY), interpolation=cv2.INTER_AREA)
    background, middle, dark = _tones(image)
    background_quantiles, stained = background_colours(image)
    return {
        "grey": cv2.resize(grey, (GREY, GREY), interpolation=cv2.INTER_AREA),
        "tiny": cv2.resize(small, (TINY, TINY), interpolation=cv2.INTER_AREA),
        "quantiles": _quantiles(image),
        "background_quantiles": background_quantiles,
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
    """Mean colours of four patches; at the bottom right, of what `mask_scale_bar` would mirror."""
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


def _cache_file(root: Path) -> Path:
    return cache_dir() / FOLDER / f"{digest(f'{_VERSION} {root}')[:16]}.npz"


def _load(file: Path) -> tuple[dict[str, int], Columns]:
    """Row of each image that was measured, and the columns; nothing if they are damaged."""
    try:
        _, keys, columns = read_cache(file)
    except (OSError, ValueError):
        return {}, {}
    return {key: number for number, key in enumerate(keys)}, columns


def read_cache(file: Path) -> tuple[str, list[str], Columns]:
    """Reads a cache file: the data root, the sha256 of each image, and the columns.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged (numpy checks each array's CRC-32), or of another version.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in _NAMES}
            keys = [bytes(key).hex() for key in stored["sha256"]]
            root = str(stored["root"])
    except (LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from error
    if any(column.shape != (len(keys), *ROW[name].shape) for name, column in columns.items()):
        raise ValueError("columns of unequal length")
    return root, keys, columns
