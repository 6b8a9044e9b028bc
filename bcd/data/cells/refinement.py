"""Completes the outlines of white cells, leaves out smudges, and finds the nuclei."""

from __future__ import annotations

import cv2
import numpy as np

from bcd.data.cells.morphology import (
    Labels,
    Layer,
    Mask,
    convex_hull,
    fill_holes,
    morph,
    otsu,
    renumber,
    windows,
)

_CYTOPLASM = 0.68  # its green density over that of the nucleus, at most
_DARKEST = 2.5  # green density above which a pixel does not affect the threshold
_PALE, _RAGGED_PALE = 0.5, 0.65  # purple of a smudge over that of the image's nuclei, at most
_RAGGED = 0.945  # area of a smudge over that of its convex hull, at most
_HOLE = 0.15  # area of the largest hole in a nucleus, in squares of a red cell's diameter
_GRANULES = 0.2  # diameter of what is no part of a nucleus, or a gap in it, in red cells'


def round_off(labels: Labels, stained: Mask) -> Labels:
    """Extends each cell to what is stained within its convex hull.

    Args:
        labels: Of the cells, (height, width).
        stained: Pixels of cells of any kind, (height, width).
    """
    found = labels.copy()
    for number, place in enumerate(windows(labels), start=1):
        hull = convex_hull(labels[place] == number)
        found[place][hull & stained[place] & (labels[place] == 0)] = number
    return found


def drop_smudges(labels: Labels, dark: Mask, purple: Layer) -> Labels:
    """Leaves out remains of burst cells: paler than the image's other nuclei, and ragged.

    Args:
        labels: Of the cells, each of which has a nucleus, (height, width).
        dark: Pixels of nuclei, (height, width).
        purple: Optical density in green less that in blue light, (height, width).
    """
    count = int(labels.max(initial=0))
    if not count:
        return labels
    depths, areas, solidities = (np.ones(count + 1) for _ in range(3))
    for number, place in enumerate(windows(labels), start=1):
        cell = labels[place] == number
        depths[number] = np.median(purple[place][cell & dark[place]])
        areas[number] = cell.sum()
        solidities[number] = areas[number] / max(convex_hull(cell).sum(), 1)
    order = 1 + np.argsort(depths[1:], kind="stable")
    # By area, or many small dark nuclei would make the large pale ones of an image smudges.
    below = np.cumsum(areas[order])
    usual = depths[order][np.searchsorted(below, below[-1] / 2)]
    paleness = depths / usual
    kept = (paleness > _PALE) & ((paleness > _RAGGED_PALE) | (solidities > _RAGGED))
    return renumber(labels, np.asarray(kept, bool))


def find_nuclei(labels: Labels, green: Layer, red: float) -> Mask:
    """Finds the nucleus of each cell: what is dark in green light, without holes.

    Args:
        labels: Of the cells, (height, width).
        green: Optical density in green light, (height, width).
        red: Diameter of a red cell in pixels.
    """
    nuclei = np.zeros(labels.shape, bool)
    for number, place in enumerate(windows(labels), start=1):
        cell = labels[place] == number
        density = green[place]
        values = density[cell]
        limit = min(otsu(values, _DARKEST), float(values.max()))
        # Without visible cytoplasm, that threshold would divide the chromatin.
        limit = min(limit, _CYTOPLASM * float(np.median(values[values >= limit])))
        chromatin = cell & (density > limit)
        opened = morph(chromatin, cv2.MORPH_OPEN, _GRANULES * red)
        core = opened if opened.any() else chromatin
        nuclei[place] |= cell & fill_holes(
            morph(core, cv2.MORPH_CLOSE, _GRANULES * red), _HOLE * red**2
        )
    return nuclei
