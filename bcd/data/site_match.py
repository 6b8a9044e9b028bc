"""Finds how images of a site are matched to training images, from the appearance of both."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.colour import LEAST_STD
from bcd.data.matching import ColourMap, Match
from bcd.data.quality.appearance import Appearance
from bcd.errors import BcdError

MOST_SCALE = 8.0  # beyond it, an image shows a part of a cell, or cells of a few pixels


def make_match(own: Appearance, site: Appearance, scale: bool, colour: str) -> Match:
    """The match of a site's images to training images.

    Args:
        own: Of the training images.
        site: Of the site's.
        scale: Whether red cells get the size that they have in training images.
        colour: `none`; `white_point` scales each channel so that the background gets the colour it
            has in training images; `reinhard` gives each CIELAB channel their mean and standard
            deviation (Reinhard et al., IEEE CG&A 2001;21(5):34); `macenko` replaces the two dyes
            and their amounts (Macenko et al., ISBI 2009:1107), and keeps the rest of the density.

    Raises:
        BcdError: A measurement that this needs is missing, or the sizes differ too much.
    """
    factor = _scale(own, site) if scale else 1.0
    return Match(factor, None if colour == "none" else _MAPS[colour](own, site))


def _scale(own: Appearance, site: Appearance) -> float:
    known, measured = _needed("red cells", own.cells, site.cells, "set site.scale=false")
    factor = float(known.median / measured.median)
    if not 1 / MOST_SCALE <= factor <= MOST_SCALE:
        raise BcdError(
            f"site.profile: its red cells have {measured.median:.1f} pixels of 224, those of "
            f"training images {known.median:.1f}: more than {MOST_SCALE:.0f} times apart"
        )
    return factor


def _needed(what: str, own: Any, site: Any, fix: str) -> tuple[Any, Any]:
    for value, whose in ((own, "the training images"), (site, "the site's images")):
        if value is None:
            raise BcdError(
                f"site.profile: too few of {whose} had {what} that could be measured: {fix}"
            )
    return own, site


def _white_point(own: Appearance, site: Appearance) -> ColourMap:
    known, measured = _needed("a background", own.white, site.white, "choose another site.colour")
    gains = np.asarray(known) / np.maximum(measured, 1)
    return _map("rgb", np.diag(gains), np.zeros(3))


def _reinhard(own: Appearance, site: Appearance) -> ColourMap:
    ratio = np.asarray(own.lab_std) / np.maximum(site.lab_std, LEAST_STD)
    return _map("lab", np.diag(ratio), own.lab_mean - ratio * np.asarray(site.lab_mean))


def _macenko(own: Appearance, site: Appearance) -> ColourMap:
    stains, site_stains = _needed("stains", own.stains, site.stains, "choose another site.colour")
    whites = [np.log(np.asarray(a.white) + 1) for a in (own, site)]
    amounts = np.append(np.asarray(own.amounts) / np.asarray(site.amounts), 1)
    # Density (a row) to amounts of the site's dyes, to those of training, and back to density.
    matrix = (np.linalg.inv(_basis(site_stains)) @ np.diag(amounts) @ _basis(stains)).T
    return _map("density", matrix, whites[0] - matrix @ whites[1])


def _basis(stains: tuple[Any, Any]) -> NDArray[np.float64]:
    """The dyes and what is perpendicular to both, as rows."""
    rest = np.cross(*stains)
    return np.stack([*np.asarray(stains), rest / np.linalg.norm(rest)])


def _map(space: str, matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> ColourMap:
    return ColourMap(space, tuple(matrix.ravel().tolist()), tuple(np.asarray(offset).tolist()))


_MAPS = {"white_point": _white_point, "reinhard": _reinhard, "macenko": _macenko}
