"""Fields cut out of larger drawn ones, so that it is known which images overlap and by how much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.synthetic import drawing
from bcd.data.synthetic import smears as generated

Pixels = NDArray[np.uint8]
SIDE = 224
_LARGE = 512  # pixels of the larger field, at the same magnification


def draw_large(seed: int) -> Pixels:
    """A drawn field that several images can be cut from; another seed, another slide."""
    field = drawing.FIELD * _LARGE / SIDE
    appearance = drawing.slide_appearance(np.random.default_rng([1, seed]))
    kind = generated.MORPHOLOGIES[generated.CLASS_NAMES[seed % 4]]
    more = (_LARGE / SIDE) ** 2
    kind = replace(kind, area=(kind.area[0] * more, kind.area[1] * more))
    with patch.object(drawing, "FIELD", field), patch.object(generated, "FIELD", field):
        return generated.image(np.random.default_rng([2, seed]), appearance, kind, _LARGE)


@dataclass(frozen=True)
class Cut:
    """An image cut out of a larger field, and the matrix (2, 3) from its pixels to the field's."""

    pixels: Pixels
    matrix: NDArray[np.float64]


def cut(field: Pixels, centre: NDArray[np.float64], angle: float, mirror: bool = False) -> Cut:
    """Cuts a square out of a field round a centre, turned by radians."""
    cos, sin, half = np.cos(angle), np.sin(angle), (SIDE - 1) / 2
    turn = np.asarray([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    matrix = np.concatenate([turn, (centre - turn @ (half, half))[:, None]], axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pixels = cv2.warpAffine(field, matrix, (SIDE, SIDE), flags=flags)
    return Cut(np.asarray(pixels, np.uint8), matrix)


def shared(first: Cut, second: Cut) -> float:
    """Share of the first image's area that the second one shows."""
    y, x = np.mgrid[0:SIDE:4, 0:SIDE:4]
    on_field = first.matrix[:, :2] @ np.stack([x.ravel(), y.ravel()]) + first.matrix[:, 2:]
    place = np.linalg.solve(second.matrix[:, :2], on_field - second.matrix[:, 2:])
    return float(((place >= 0) & (place <= SIDE - 1)).all(axis=0).mean())


def changed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The same field in another light, out of focus, and saved as a JPEG."""
    values = 255 * (pixels / 255.0) ** rng.uniform(0.8, 1.3)
    values *= rng.uniform(0.8, 1.15) * rng.uniform(0.93, 1.07, 3)
    across = np.linspace(-0.5, 0.5, SIDE)
    side = rng.uniform(0, 2 * np.pi)
    fall = np.cos(side) * across[None, :] + np.sin(side) * across[:, None]
    values *= 1 + rng.uniform(0, 0.2) * fall[:, :, None]
    lit = np.clip(values, 0, 255).astype(np.uint8)
    blurred = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.3, 1.8))
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
    _, code = cv2.imencode(".jpg", blurred, quality)
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)


def draw_pair(seed: int) -> tuple[Pixels, Pixels, float]:
    """Two images of one field and the share of the first that the second shows.

    The second is shifted by 10 to 60 % of the side, turned by any angle, mirrored in half of the
    cases, and changed.
    """
    rng = np.random.default_rng([3, seed])
    field = draw_large(seed)
    way = rng.uniform(0, 2 * np.pi)
    shift = rng.uniform(0.1, 0.6) * SIDE * np.asarray([np.cos(way), np.sin(way)])
    middle = np.full(2, _LARGE / 2)
    first = cut(field, middle - shift / 2, 0.0)
    second = cut(field, middle + shift / 2, rng.uniform(0, 2 * np.pi), bool(rng.random() < 0.5))
    return first.pixels, changed(second.pixels, rng), shared(first, second)
