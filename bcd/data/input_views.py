"""Makes the input views of an image, and packs them into one array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.config.input_views import BACKGROUND, CELLS, MASKED, PLAIN_VIEW, InputView
from bcd.data.colour import LEAST_STD, from_lab, to_bytes, to_lab
from bcd.data.matching import Match
from bcd.data.reading import prepare
from bcd.data.roi import cut_cells, pack_cells, packed_cells, paint_over, roi_definition

Pixels = NDArray[np.uint8]

# Level of the background after white balance.
_WHITE = 230
# Share of the image that counts as background: the brightest quarter.
_BACKGROUND = 0.25
# CIELAB after Reinhard's normalization: round numbers between the averages of smears from Tehran
# and of blood cells from Barcelona, so that they are fixed for every data set and split.
_LAB_MEAN = (83, 7, -2)
_LAB_STD = (13, 9, 14)


def normalize(pixels: Pixels, normalization: str) -> Pixels:
    """Normalizes the colours of an image, depending on this image alone.

    Args:
        pixels: RGB, (height, width, 3); not modified.
        normalization: `plain` changes nothing. `grey` has the luma in all channels (ITU-R BT.601).
            `white_balanced` scales each channel so that the median of the brightest quarter of the
            pixels, the background of a smear, becomes 230. `reinhard` gives each CIELAB channel a
            fixed mean and standard deviation, as in Reinhard et al., "Color transfer between
            images", IEEE CG&A 2001;21(5):34.

    Returns:
        RGB of the same shape.
    """
    return _NORMALIZERS[normalization](pixels)


def _grey(pixels: Pixels) -> Pixels:
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.cvtColor(luma, cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def _white_balanced(pixels: Pixels) -> Pixels:
    luma = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    bright = pixels[luma >= np.quantile(luma, 1 - _BACKGROUND)]
    white = np.maximum(np.median(bright, axis=0), 1)
    return to_bytes(pixels * (_WHITE / white))


def _reinhard(pixels: Pixels) -> Pixels:
    lab = to_lab(pixels)
    mean, std = (f(lab, axis=(0, 1), dtype=np.float64) for f in (np.mean, np.std))
    moved = (lab - mean) * (_LAB_STD / np.maximum(std, LEAST_STD)) + _LAB_MEAN
    return to_bytes(from_lab(moved.astype(np.float32)))


_NORMALIZERS: Mapping[str, Callable[[Pixels], Pixels]] = {
    PLAIN_VIEW: lambda pixels: pixels,
    "grey": _grey,
    "white_balanced": _white_balanced,
    "reinhard": _reinhard,
}

_CONSTANTS: Mapping[str, Mapping[str, Any]] = {
    "white_balanced": {"white": _WHITE, "background": _BACKGROUND},
    "reinhard": {"mean": list(_LAB_MEAN), "std": list(_LAB_STD), "least_std": LEAST_STD},
}


def definition(view: InputView) -> dict[str, Any]:
    """Everything that determines an input view, as plain data for cache keys and cards."""
    constants = _CONSTANTS.get(view.normalization, {})
    own = {"normalization": view.normalization, "side": view.side}
    return {**own, **constants, **roi_definition(view)}


def prepare_sides(
    image: Pixels, views: Sequence[InputView], mask: bool, match: Match | None = None
) -> dict[int, Pixels]:
    """Resizes a decoded image to each side that the views need, as `prepare` does, or matched."""
    make = prepare if match is None else match.prepare
    return {side: make(image, side, mask) for side in sides_of(views)}


def sides_of(views: Sequence[InputView]) -> tuple[int, ...]:
    """The different sides to which input views need the image resized, ascending."""
    return tuple(sorted({view.image_side for view in views}))


Regions = Mapping[tuple[int, str], Sequence[Pixels]]


def cut_rois(resized: Mapping[int, Pixels], views: Sequence[InputView]) -> Regions:
    """The regions that input views are made of.

    Args:
        resized: The image by its side, from `prepare_sides`.
        views: The input views.

    Returns:
        By the side of the resized image and the region: the image itself, the image with a part
        painted over, or the image followed by a crop of each white cell.
    """
    found: dict[tuple[int, str], tuple[Pixels, ...]] = {}
    for view in views:
        image, key = resized[view.image_side], (view.image_side, view.roi)
        if key not in found:
            if view.roi in (MASKED, BACKGROUND):
                found[key] = (paint_over(image, view.roi == MASKED),)
            elif view.roi == CELLS:
                found[key] = (image, *cut_cells(image, view.side))
            else:
                found[key] = (image,)
    return found


def make_views(
    cut: Regions,
    views: Sequence[InputView],
    augment: Callable[[Pixels], Pixels] = lambda pixels: pixels,
) -> list[Pixels]:
    """Makes input views of an image.

    Args:
        cut: The image's regions, from `cut_rois`.
        views: The input views.
        augment: Applied to each region before its normalization, as colours and files differ
            before a network gets the image.

    Returns:
        For each view its pixels, (side, side, 3); of cells the bytes that `pack_cells` makes.
    """
    augmented = {key: [augment(part) for part in parts] for key, parts in cut.items()}
    return [_finish(augmented[view.image_side, view.roi], view) for view in views]


def _finish(parts: Sequence[Pixels], view: InputView) -> Pixels:
    if view.roi != CELLS:
        return normalize(parts[0], view.normalization)
    image, *crops = parts
    return pack_cells(image, [normalize(crop, view.normalization) for crop in crops], view.side)


def pack(parts: Sequence[Pixels]) -> Pixels:
    """One array for the views of an image: a single view as it is, several as flat bytes."""
    return parts[0] if len(parts) == 1 else np.concatenate([part.reshape(-1) for part in parts])


def packed_shape(views: Sequence[InputView]) -> tuple[int, ...]:
    """Shape of what `pack` returns for these views."""
    if len(views) == 1 and views[0].roi == CELLS:
        return (packed_cells(views[0].image_side, views[0].side),)
    if len(views) == 1:
        return views[0].side, views[0].side, 3
    return (sum(view.side**2 * 3 for view in views),)


def views_to_read(views: Sequence[InputView]) -> tuple[InputView, ...]:
    """The input views, after the one that is described if they do not contain it.

    Args:
        views: That the network gets.
    """
    if views[0].roi in (MASKED, BACKGROUND):
        return (views[0].described, *views)
    return tuple(views)


def split_described(batch: Any, views: Sequence[InputView]) -> tuple[Any, Any]:
    """Divides what was read as `views_to_read` into the described images and the network's.

    Args:
        batch: Of `pack`, an array or tensor (N, ...).
        views: That the network gets.

    Returns:
        Images (N, side, side, 3), or the batch itself if the network's inputs contain them; and
        inputs as `pack` makes them of `views`, (N, ...).
    """
    if views_to_read(views) == tuple(views):
        return batch, batch
    side = views[0].described.side
    images = batch[:, : 3 * side**2].reshape(batch.shape[0], side, side, 3)
    return images, batch[:, 3 * side**2 :].reshape(batch.shape[0], *packed_shape(views))


def plain_pixels(packed: Pixels, views: Sequence[InputView]) -> Pixels | None:
    """Pixels of the largest plain view in what `pack` returned; None if there is none."""
    if views[0].roi == CELLS:  # the image comes first
        side = views[0].image_side
        return packed[: side**2 * 3].reshape(side, side, 3)
    plain = [number for number, view in enumerate(views) if view.is_plain]
    return _largest(packed, views, plain) if plain else None


def shown_pixels(packed: Pixels, views: Sequence[InputView]) -> Pixels:
    """Pixels to show to a person: as `plain_pixels`, or of the largest view if none is plain."""
    plain = plain_pixels(packed, views)
    return _largest(packed, views, range(len(views))) if plain is None else plain


def _largest(packed: Pixels, views: Sequence[InputView], numbers: Sequence[int]) -> Pixels:
    largest = max(numbers, key=lambda number: views[number].side)
    side, start = views[largest].side, sum(view.side**2 * 3 for view in views[:largest])
    return packed.reshape(-1)[start : start + side**2 * 3].reshape(side, side, 3)
