"""The empty glass of a smear: its colours, from pixels that lie in no cell and near none.

What the colours of the whole image say is in part how much of it is stained: cells colour it.
Here red and white cells, platelets and debris are masked with a wide margin first, so that only
light, glass and stain left on it remain. How much is masked, and where, must not show either:

- only colours are given, of `SAMPLE` pixels whatever number is left, so that neither a count nor
  the smaller noise of a larger sample tells how much was masked;
- the pixels are chosen by one fixed order of places, the same in all images;
- the border of the image (a cell beyond it may cast its halo into it) and the corner of the
  scale bar are left out of every image.

What remains is that pixels of a crowded field lie closer together than those of an empty one. Where
fewer than `SAMPLE` are left, or what is left is no lighter than what is masked (no bright field, or
cells cut out on black), or much of the image is lighter still (a cell that fills it was taken for
the glass), no colours are given. What cannot be told from glass is taken for it: cells fainter than
`_APART`, and in a field without any glass a sheet of even cells.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.reading import BAR_HEIGHT, BAR_WIDTH

SAMPLE = 64  # pixels whose colours are looked at
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

_SIDE = 112  # pixels that the image is brought to: averaging lowers its noise
_STEP = 4  # the light is fitted on every fourth pixel of every fourth row
_BLOCKS = 4  # by four: in each, the brightest pixels are first taken for glass
_BRIGHTEST = 0.15
_FITS = 4
_APART = 10  # grey values from the glass, in any channel, from which on a pixel is no glass
_LIGHTER = 0.03  # share of the image that is lighter than glass, from which on it is none
_MARGIN = 3  # pixels of 112 around what is no glass, twice as many of 224


def _quadratic(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


_TERMS = _quadratic(*np.meshgrid(*2 * [np.linspace(-1, 1, _SIDE, dtype=np.float32)]))
_FEW_TERMS = np.ascontiguousarray(_TERMS[::_STEP, ::_STEP]).reshape(-1, 6)
_ORDER = np.random.default_rng(0).permutation(_SIDE * _SIDE)
_ELEMENT = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _MARGIN + 1, 2 * _MARGIN + 1))


def _always_masked() -> NDArray[np.uint8]:
    masked = np.ones((_SIDE, _SIDE), np.uint8)
    inner = slice(_MARGIN, -_MARGIN)
    masked[inner, inner] = 0
    down, across = round(BAR_HEIGHT * _SIDE) + _MARGIN, round(BAR_WIDTH * _SIDE) + _MARGIN
    masked[-down:, -across:] = 1
    return masked


_ALWAYS = _always_masked()


def background_colours(
    image: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Quantiles of the colours of the empty glass, and the share of the image that is stained.

    Args:
        image: RGB, (224, 224, 3).

    Returns:
        Five quantiles of each channel over `SAMPLE` pixels far from any cell, float32 (15,), 0 to
        255, not a number where there are none to give; and the share of all pixels that are no
        glass, float32 (), which is no part of the colours.
    """
    small = np.asarray(cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    glass: Any = _TERMS.reshape(-1, 6) @ _fit_light(small)
    above = small.astype(np.float32) - glass.reshape(_SIDE, _SIDE, 3)
    apart = np.abs(above)
    stained = np.maximum(np.maximum(apart[..., 0], apart[..., 1]), apart[..., 2]) > _APART
    lighter = np.minimum(np.minimum(above[..., 0], above[..., 1]), above[..., 2]) > _APART
    mask = cv2.medianBlur(stained.astype(np.uint8), 3)  # single pixels are noise
    wide = np.maximum(cv2.dilate(mask, _ELEMENT), _ALWAYS)
    places = _ORDER[wide.ravel()[_ORDER] == 0][:SAMPLE]
    share = np.asarray(mask.mean(), np.float32)
    colours = np.sort(small.reshape(-1, 3)[places], axis=0)
    no_glass = (lighter & (_ALWAYS == 0)).mean() > _LIGHTER
    if len(places) < SAMPLE or no_glass or not _lighter(colours, small[mask > 0]):
        return np.full(3 * len(QUANTILES), np.nan, np.float32), share
    chosen = [round(q * (SAMPLE - 1)) for q in QUANTILES]
    return colours[chosen].ravel().astype(np.float32), share


def _fit_light(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Fits each channel of the glass by a quadratic of the place, (6, 3): light is uneven.

    It begins with the brightest pixels of each part of the image and goes on with whatever is
    near the last fit, so that how many cells there are moves it little.
    """
    few = small[::_STEP, ::_STEP].astype(np.float32)
    light, side = few.sum(axis=2), len(few) // _BLOCKS
    blocks = light.reshape(_BLOCKS, side, _BLOCKS, side).swapaxes(1, 2).reshape(_BLOCKS**2, -1)
    rank = int((1 - _BRIGHTEST) * blocks.shape[1])
    limits = np.partition(blocks, rank, axis=1)[:, rank].reshape(_BLOCKS, _BLOCKS)
    near = (light >= limits.repeat(side, axis=0).repeat(side, axis=1)).ravel()
    colours = few.reshape(-1, 3)
    small_ridge = np.float32(1e-3) * np.eye(6, dtype=np.float32)  # where nearly nothing is near
    for number in range(_FITS):
        terms = _FEW_TERMS * near[:, None]
        found = np.linalg.solve(terms.T @ _FEW_TERMS + small_ridge, terms.T @ colours)
        apart = np.abs(colours - _FEW_TERMS @ found)
        limit = 2 * _APART if number == 0 else _APART
        near = (apart[:, 0] <= limit) & (apart[:, 1] <= limit) & (apart[:, 2] <= limit)
    return np.asarray(found, np.float32)


def _lighter(glass: NDArray[np.uint8], cells: NDArray[np.uint8]) -> bool:
    return not len(cells) or bool(glass.mean() > cells.mean())
