"""Images that no model of blood smears should answer for: noise, text, photographs, changed own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.files import SUFFIXES
from bcd.data.reading import fit, read_image
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear

Pixels = NDArray[np.uint8]
Images = Iterator[Pixels]

_LEAST_PHOTO = 200  # smallest side of a photograph that crops are taken from


def changed(pixels: Pixels) -> dict[str, Pixels]:
    """Versions of an own image that are far from it, by name; RGB of the same shape."""
    side = len(pixels)
    third = np.ascontiguousarray(pixels[side // 3 : 2 * side // 3, side // 3 : 2 * side // 3])
    return {
        "own, inverted": np.asarray(255 - pixels, np.uint8),
        "own, magnified x 3": fit(third, side),
        "own, blurred, sd 4 px": np.asarray(cv2.GaussianBlur(pixels, (0, 0), 4), np.uint8),
    }


def foreign(size: int, count: int, sites: Mapping[str, Path]) -> dict[str, Callable[[], Images]]:
    """Generators of foreign images, by name.

    Args:
        size: Height and width of the images in pixels.
        count: Images of each kind; of sites, all are used.
        sites: Folders with images of other hospitals.
    """
    made: dict[str, Callable[[], Images]] = {
        name: partial(_site, root, size) for name, root in sites.items()
    }
    made["drawn smears"] = lambda: _drawn(size, count)
    if find_spec("skimage") is not None:
        made["photographs"] = lambda: _photographs(size, count)
    made["uniform noise"] = lambda: _noise(size, count, uniform=True)
    made["Gaussian noise"] = lambda: _noise(size, count, uniform=False)
    made["text"] = lambda: _text(size, count)
    return made


def _site(root: Path, size: int) -> Images:
    files: Sequence[Path] = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES)
    return (fit(read_image(file), size) for file in files)


def _drawn(size: int, count: int) -> Images:
    for i in range(count):
        smear = draw_smear(CLASS_NAMES[i % 4], slide=i // 4 % 20, index=i, size=max(size, 224))
        yield fit(smear, size)


def _photographs(size: int, count: int) -> Images:
    """Random square crops of the photographs that scikit-image has on board."""
    rng = np.random.default_rng(0)
    found_in = find_spec("skimage")
    assert found_in is not None and found_in.origin is not None
    folder = Path(found_in.origin).parent / "data"
    found = [cv2.imread(str(f)) for f in sorted(folder.iterdir()) if f.suffix in (".png", ".jpg")]
    photographs = [p for p in found if p is not None and min(p.shape[:2]) >= _LEAST_PHOTO]
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        height, width = photograph.shape[:2]
        side = int(rng.integers(min(128, height, width), min(height, width) + 1))
        y, x = rng.integers(0, (height - side + 1, width - side + 1))
        crop = photograph[y : y + side, x : x + side, ::-1]
        yield fit(np.ascontiguousarray(crop, np.uint8), size)


def _noise(size: int, count: int, uniform: bool) -> Images:
    rng = np.random.default_rng(1)
    for _ in range(count):
        shape = (size, size, 3)
        values = rng.uniform(0, 256, shape) if uniform else rng.normal(128, 50, shape)
        yield np.asarray(np.clip(values, 0, 255), np.uint8)


def _text(size: int, count: int) -> Images:
    rng = np.random.default_rng(2)
    letters = list("abcdefghijklmnopqrstuvwxyz     ")
    for i in range(count):
        page = np.full((size, size, 3), 255, np.uint8)
        colour = (0, 0, 0) if i % 2 else tuple(int(v) for v in rng.integers(0, 160, 3))
        for y in range(12, size, 16):
            line = "".join(rng.choice(letters, size // 7))
            font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX]))
            cv2.putText(page, line, (2, y), font, 0.45, colour, 1, cv2.LINE_AA)
        yield page
