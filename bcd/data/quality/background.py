"""The background of a smear: its colours, from pixels that are neither in a cell nor near one.

The colours of the whole image depend on how much of it is stained, since cells colour it. Here red
and white cells, platelets and debris are masked first, with a wide margin, so that only the light,
the slide and the stain left on it remain. The result must not reveal how much was masked, or where:

- It consists of the colours of `SAMPLE` pixels, however many are left, so that neither a count nor
  the lower noise of a larger sample shows how much was masked.
- The pixels are chosen in one fixed order of positions, which is the same in all images.
- The border of the image, where a cell outside the image may cast a halo, and the corner of the
  scale bar are left out of every image.

One dependence remains: pixels of a crowded field lie closer together than those of an empty one. No
colours are returned in three cases: fewer than `SAMPLE` pixels are left; the pixels left are no
lighter than the masked ones (the image is not bright-field, or cells were cut out on black); or
much of the image is lighter than the background (a cell that fills the image was taken for it).
Whatever looks like background is treated as such: cells fainter than `_APART`, and a uniform sheet
of cells in a field without any background.

Uneven light is modelled as a quadratic surface fitted to the background by iteratively reweighted
least squares with weights of 0 and 1, as in retrospective shading correction (Likar et al., J
Microsc 2000;197:285). Masking is by colour difference to that surface, not by Otsu's threshold,
which depends on the number of cells.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.reading import BAR_HEIGHT, BAR_WIDTH

SAMPLE = 64  # pixels whose colours are used
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

_SIDE = 112  # pixels to which the image is reduced: averaging lowers its noise
_STEP = 4  # the light is fitted on every fourth pixel of every fourth row
_BLOCKS = 4  # by four: in each, the brightest pixels are the first estimate of the background
_BRIGHTEST = 0.15
_FITS = 4
_APART = 10  # difference in any channel, in grey values, above which a pixel is not background
_LIGHTER = 0.03  # share of pixels lighter than the background above which the fit is rejected
_LOGARITHM = np.log(np.arange(256, dtype=np.float32) + 1)
_MARGIN = 3  # pixels of 112 around what is not background, twice as many of 224


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
    """Quantiles of the colours of the background, and the share of the image that is stained.

    Args:
        image: RGB, (224, 224, 3).

    Returns:
        Five quantiles of each channel over `SAMPLE` pixels far from any cell, float32 (15,), 0 to
        255, NaN if no colours can be given; and the share of all pixels that are not background,
        float32 (), which is not part of the colours.
    """
    small = np.asarray(cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    background: Any = _TERMS.reshape(-1, 6) @ _fit_light(small)
    above = small.astype(np.float32) - background.reshape(_SIDE, _SIDE, 3)
    apart = np.abs(above)
    stained = largest(apart) > _APART
    lighter = np.minimum(np.minimum(above[..., 0], above[..., 1]), above[..., 2]) > _APART
    mask = cv2.medianBlur(stained.astype(np.uint8), 3)  # single pixels are noise
    wide = np.maximum(cv2.dilate(mask, _ELEMENT), _ALWAYS)
    places = _ORDER[wide.ravel()[_ORDER] == 0][:SAMPLE]
    share = np.asarray(mask.mean(), np.float32)
    colours = np.sort(small.reshape(-1, 3)[places], axis=0)
    misfitted = (lighter & (_ALWAYS == 0)).mean() > _LIGHTER
    if len(places) < SAMPLE or misfitted or not _lighter(colours, small[mask > 0]):
        return np.full(3 * len(QUANTILES), np.nan, np.float32), share
    chosen = [round(q * (SAMPLE - 1)) for q in QUANTILES]
    return colours[chosen].ravel().astype(np.float32), share


def background_light(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Light that the background has, or would have, at each pixel.

    Args:
        image: RGB, (height, width, 3).

    Returns:
        The fitted quadratic surface of each channel, (height, width, 3).
    """
    small = np.asarray(cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    down, across = (np.linspace(-1, 1, side, dtype=np.float32) for side in image.shape[:2])
    return np.asarray(_quadratic(*np.meshgrid(across, down)) @ _fit_light(small), np.float32)


def optical_density(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density (natural logarithm) of each channel against the fitted background.

    Args:
        image: RGB, (height, width, 3).

    Returns:
        About 0 in the background, (height, width, 3).
    """
    light = np.maximum(background_light(image), 1)
    return np.asarray(np.log(light + 1) - cv2.LUT(image, _LOGARITHM), np.float32)


def largest(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest channel of each pixel, (height, width); numpy's `max` takes ten times as long."""
    first, second, third = (channels[..., number] for number in range(3))
    return np.maximum(np.maximum(first, second), third)


def _fit_light(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Fits each channel of the background by a quadratic surface, (6, 3), since light is uneven.

    It starts with the brightest pixels of each part of the image and continues with all pixels near
    the previous fit, so that the number of cells has little influence.
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


def _lighter(background: NDArray[np.uint8], cells: NDArray[np.uint8]) -> bool:
    return not len(cells) or bool(background.mean() > cells.mean())
