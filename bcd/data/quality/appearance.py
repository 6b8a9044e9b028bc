"""What a set of images looks like: size of red cells, background, colours and stains.

A checkpoint's card holds the appearance of the training images; `bcd site` measures that of another
site, so that its images can be matched (`bcd.data.matching`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.config.compose import with_defaults
from bcd.config.input_views import InputView
from bcd.config.schema import AugmentConfig
from bcd.data.catalog import Catalog
from bcd.data.colour import to_lab
from bcd.data.input_views import sides_of
from bcd.data.matching import Match
from bcd.data.quality.background import QUANTILES, background_colours
from bcd.data.quality.red_cells import red_cell_diameter
from bcd.data.stains import Vector, macenko_stains
from bcd.storage import JsonCache

CACHE = JsonCache("appearances")
SIDE = 224  # pixels to which every image is resized before it is measured
MOST = 100  # images of a set that are measured
FEWEST = 5  # images from which a median is given

_VERSION = 1  # increase it when the same images give other numbers
_SHARE = 0.1  # least share of images: what is found in fewer may be something else
_SAMPLE = 256  # pixels of each image from which stains are estimated
_PLACES = np.random.default_rng(0).choice(SIDE * SIDE, _SAMPLE, replace=False)
_BETWEEN = (0.025, 0.5, 0.975)


class Look(NamedTuple):
    """Measurements of one image; NaN where there is none.

    Attributes:
        diameter: Of its red cells, in pixels of an image of `SIDE`.
        white: Median RGB of its background, (3,).
        background: The same in CIELAB, (3,).
        mean: Mean CIELAB, (3,).
        variance: Variance of each CIELAB channel, (3,).
        pixels: RGB of a fixed sample of pixels, (n, 3).
    """

    diameter: float
    white: NDArray[np.float64]
    background: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Spread:
    """Quantiles of a measurement over images.

    Attributes:
        count: Number of images that could be measured.
        low: 2.5 % quantile.
        median: 50 % quantile.
        high: 97.5 % quantile.
    """

    count: int
    low: float
    median: float
    high: float


Spreads = tuple[Spread, Spread, Spread]


@dataclass(frozen=True)
class Appearance:
    """Measurements of a set of images.

    Attributes:
        images: Number of images that were measured.
        cells: Median diameter of red cells per image, in pixels of an image of 224 pixels; None if
            fewer than `FEWEST` images, or fewer than a tenth, show measurable cells.
        background: CIELAB of the background; None as above.
        white: RGB of the background, median over images; None as above.
        colours: CIELAB of whole images.
        lab_mean: Mean CIELAB over all pixels.
        lab_std: Root mean square, over images, of the standard deviation within an image.
        stains: Optical density in R, G, B of one unit of two dyes, by Macenko's method; None if
            it cannot be estimated.
        amounts: 99 % quantile of the amount of each dye.
    """

    images: int
    cells: Spread | None
    background: Spreads | None
    white: Vector | None
    colours: Spreads
    lab_mean: Vector
    lab_std: Vector
    stains: tuple[Vector, Vector] | None
    amounts: tuple[float, float] | None

    def to_plain(self) -> dict[str, Any]:
        """Plain data, as the card and a profile store it."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Appearance:
        """What `to_plain` gave.

        Raises:
            ValueError: It is something else, or a number is not finite.
        """
        try:
            cells, background = plain["cells"], plain["background"]
            stains, amounts = plain["stains"], plain["amounts"]
            return cls(
                int(plain["images"]),
                None if cells is None else _spread_of(cells),
                None if background is None else _spreads_of(background),
                None if plain["white"] is None else _numbers(plain["white"], 3),
                _spreads_of(plain["colours"]),
                _numbers(plain["lab_mean"], 3),
                _numbers(plain["lab_std"], 3),
                None if stains is None else (_numbers(stains[0], 3), _numbers(stains[1], 3)),
                None if amounts is None else _numbers(amounts, 2),
            )
        except (LookupError, TypeError) as error:
            raise ValueError("not an appearance") from error


def _numbers(values: Any, count: int) -> Any:
    found = tuple(float(value) for value in values)
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError("not an appearance")
    return found


def _spread_of(plain: Any) -> Spread:
    low, median, high = _numbers([plain[name] for name in ("low", "median", "high")], 3)
    return Spread(int(plain["count"]), low, median, high)


def _spreads_of(plain: Any) -> Spreads:
    first, second, third = (_spread_of(one) for one in plain)
    return first, second, third


def look_at(image: NDArray[np.uint8]) -> Look:
    """Measures one image.

    Args:
        image: RGB, (224, 224, 3).
    """
    lab = to_lab(image)
    colours, _ = background_colours(image)
    white = colours.reshape(len(QUANTILES), 3)[len(QUANTILES) // 2].astype(np.float64)
    background = np.full(3, np.nan)
    if not np.isnan(white).any():
        background = to_lab(white[None, None])[0, 0].astype(np.float64)
    mean, std = (np.asarray(values[:, 0], np.float64) for values in cv2.meanStdDev(lab))
    pixels = image.reshape(-1, 3)[_PLACES]
    diameter = red_cell_diameter(image)
    return Look(diameter, white, background, mean, std**2, pixels)


def summarize(looks: Sequence[Look]) -> Appearance | None:
    """The appearance of images from the measurements of each; None for fewer than `FEWEST`."""
    if len(looks) < FEWEST:
        return None
    means = np.stack([look.mean for look in looks])
    whites = np.stack([look.white for look in looks])
    lit = ~np.isnan(whites[:, 0])
    background = _spreads(np.stack([look.background for look in looks]))
    white: Any = None
    if background is not None:
        white = tuple(np.median(whites[lit], axis=0).tolist())
    stains = amounts = None
    if white is not None:
        pixels = np.concatenate([look.pixels for look in looks])
        stains, amounts = macenko_stains(pixels, white) or (None, None)
    colours = _spreads(means)
    assert colours is not None  # every image has a mean
    variances = np.stack([look.variance for look in looks])
    return Appearance(
        len(looks),
        _spread(np.asarray([look.diameter for look in looks])),
        background,
        white,
        colours,
        _numbers(means.mean(axis=0), 3),
        _numbers(np.sqrt(variances.mean(axis=0)), 3),
        stains,
        amounts,
    )


def _spread(values: NDArray[np.float64]) -> Spread | None:
    measured = values[~np.isnan(values)]
    if len(measured) < max(FEWEST, _SHARE * len(values)):
        return None
    low, median, high = np.quantile(measured, _BETWEEN).tolist()
    return Spread(len(measured), low, median, high)


def _spreads(values: NDArray[np.float64]) -> Spreads | None:
    first, second, third = (_spread(column) for column in values.T)
    return None if first is None or second is None or third is None else (first, second, third)


def kept_sides(views: Sequence[InputView]) -> list[int]:
    """Sides for a scan to keep, ascending: of input views and for `measure_appearance`."""
    return sorted({SIDE, *sides_of(views)})


def choose_evenly(count: int, most: int = MOST) -> list[int]:
    """Numbers of at most `most` of `count` images, evenly spaced."""
    chosen = min(count, most)
    return [number * count // chosen for number in range(chosen)]


def measure_appearance(
    catalog: Catalog, indices: Sequence[int], mask: bool, match: Match | None = None
) -> Appearance | None:
    """The appearance of at most `MOST` of some images of a catalog, evenly spaced; cached.

    Args:
        catalog: The images.
        indices: Which of them.
        mask: Whether the corner with the scale bar is covered.
        match: Applied to the images first.

    Raises:
        BcdError: An image has changed or is missing since the catalog was made.
    """
    from bcd.data.views import Augmenter, ImageViews  # needs torch, which nothing else here does

    chosen = [indices[i] for i in choose_evenly(len(indices))]
    facts = None if match is None else match.to_plain()
    key = json.dumps([_VERSION, mask, facts, [catalog.images[i].sha256 for i in chosen]])
    cached = CACHE.load(key)
    if cached is not None:
        return Appearance.from_plain(cached)

    source = ImageViews.of(
        catalog, SIDE, Augmenter(with_defaults(AugmentConfig), 0), mask, match=match
    )

    def look(index: int) -> Look:
        return look_at(source.resized(index, verify=True)[SIDE])

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = summarize(list(pool.map(look, chosen)))
    if found is not None:
        CACHE.save(key, f"{len(chosen)} images of {catalog.root}", found.to_plain())
    return found
