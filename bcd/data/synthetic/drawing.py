"""Drawing of one simulated blood smear: stain, light, red cells, platelets and white cells.

An image is drawn as light through stained material: every kind of cell adds an amount of dye
to a layer, the layers give an optical density, and the light that passes is
``background * exp(-density)`` (Beer and Lambert), so that cells that overlap get darker by
themselves. Lengths are in micrometres; an image always shows ``FIELD`` micrometres, whatever
its size in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Layer = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Outlines = tuple[NDArray[np.float64], NDArray[np.float64]]  # of a cell and its nucleus, pixels

FIELD = 84.0
"""Side of the field of view in micrometres: a red cell of 7.5 is 20 pixels wide at 224."""

_GRID = 256  # textures are made on this grid, so that they do not depend on the size
_SHIFT = 5  # cv2 draws at 1/32 pixel
_ORDERS = np.arange(2, 7)
_ANGLES = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)


@dataclass(frozen=True)
class Morphology:
    """What the white cells of one class look like; ``(mean, deviation)`` or ``(lowest, highest)``.

    Attributes:
        diameter: Of the cell, micrometres (mean, deviation between cells).
        ratio: Diameter of the nucleus over that of the cell (mean, deviation).
        eccentricity: How far the nucleus lies off centre, 0 to 1 (lowest, highest).
        elongation: Length over width of the cell, less one (lowest, highest).
        irregularity: Waviness of the nuclear outline, share of its radius (lowest, highest).
        indentation: Depth of the notch, share of the radius of the nucleus (lowest, highest).
        indented: Share of the nuclei that have a notch.
        nucleoli: Shares of the nuclei with 0, 1, 2, 3 nucleoli.
        nucleolus: Diameter of a nucleolus, micrometres (lowest, highest).
        grain: Size of the chromatin clumps, micrometres.
        clumping: Contrast of the chromatin, 0 smooth to 1 blocky (lowest, highest).
        density: Dye in the nucleus, 1 is usual (mean, deviation between images).
        basophilia: Dye in the cytoplasm, 1 is usual (lowest, highest).
        area: Nuclear area in the field, square micrometres (lowest, highest).
    """

    diameter: tuple[float, float]
    ratio: tuple[float, float]
    eccentricity: tuple[float, float]
    elongation: tuple[float, float]
    irregularity: tuple[float, float]
    indentation: tuple[float, float]
    indented: float
    nucleoli: tuple[float, float, float, float]
    nucleolus: tuple[float, float]
    grain: float
    clumping: tuple[float, float]
    density: tuple[float, float]
    basophilia: tuple[float, float]
    area: tuple[float, float]


@dataclass(frozen=True)
class Appearance:
    """Stain and light of one slide, shared by all its images.

    Attributes:
        dyes: ``(3, 3)`` optical density in R, G, B (columns) of one unit of red cell,
            cytoplasm and nucleus (rows).
        background: ``(3,)`` light of the background, where there are no cells, 0 to 255.
        gradient: Fall of the light across the field, share of the background.
        pallor: How pale the centre of a red cell is, 0 to 1.
        blur: Usual defocus, micrometres.
    """

    dyes: Layer
    background: Layer
    gradient: float
    pallor: float
    blur: float


def slide_appearance(rng: np.random.Generator) -> Appearance:
    """Draws the stain and the light of a slide.

    Args:
        rng: Random generator of the slide.

    Returns:
        Stain and light, from grey-blue to pink red cells and from blue to magenta nuclei.
    """
    hue = rng.uniform(0.0, 1.0)  # 0 azure (blue) to 1 eosin (pink)
    red = np.array([0.42 - 0.24 * hue, 0.36 + 0.04 * hue, 0.20 + 0.06 * hue])
    cytoplasm = np.array([0.62 - 0.26 * hue, 0.50, 0.10 + 0.04 * hue])
    nucleus = np.array([0.80 - 0.36 * hue, 1.02 + 0.06 * hue, 0.24 + 0.06 * hue])
    strength = rng.uniform([0.75, 0.8, 0.8], [1.3, 1.2, 1.25])[:, None]
    dyes = np.stack([red, cytoplasm, nucleus]) * strength * rng.uniform(0.9, 1.1, (3, 3))
    balance = rng.uniform([0.94, 0.97, 0.9], [1.0, 1.0, 1.0])
    background = rng.uniform(244.0, 260.0) * balance
    return Appearance(
        dyes.astype(np.float32),
        background.astype(np.float32),
        rng.uniform(0.02, 0.12),
        rng.uniform(0.5, 0.95),
        rng.uniform(0.12, 0.3),
    )


def _texture(rng: np.random.Generator, size: int, grain: float) -> Layer:
    """Random field ``(size, size)`` of deviation about 1, its structures ``grain`` micrometres."""
    noise = rng.standard_normal((_GRID, _GRID), dtype=np.float32)
    sigma = 0.5 * grain * _GRID / FIELD
    smooth = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma), dtype=np.float32)
    smooth /= np.sqrt(np.square(smooth).mean(dtype=np.float32))
    shrink = cv2.INTER_AREA if size < _GRID else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(smooth, (size, size), interpolation=shrink), dtype=np.float32)


def _scatter(rng: np.random.Generator) -> NDArray[np.float64]:
    """Places red cells on a jittered hexagonal grid with gaps; ``(n, 2)`` centres, micrometres."""
    step = rng.uniform(7.2, 8.6)
    reach = np.arange(-FIELD, FIELD + step, step)
    x, y = np.meshgrid(reach, reach * 0.87)
    x = x + 0.5 * step * (np.arange(len(reach)) % 2)[:, None]
    points = np.stack([x, y], axis=-1).reshape(-1, 2)
    turn = rng.uniform(0.0, np.pi)
    cos, sin = np.cos(turn), np.sin(turn)
    points = points @ np.array([[cos, -sin], [sin, cos]]) + FIELD / 2
    points += rng.uniform(-0.42, 0.42, points.shape) * step
    points = points[np.all((points > -5.0) & (points < FIELD + 5.0), axis=1)]
    waves = rng.uniform(-0.16, 0.16, (2, 4))
    crowd = np.cos(points @ waves + rng.uniform(0.0, 2 * np.pi, 4)).sum(axis=1)
    chance = 1.0 / (1.0 + np.exp(-1.6 * (crowd + rng.uniform(-0.9, 1.3))))
    return np.asarray(points[rng.random(len(points)) < chance], dtype=np.float64)


def red_cells(rng: np.random.Generator, size: int, pallor: float) -> Layer:
    """Draws biconcave discs of varying size, shape and thickness.

    Args:
        rng: Source of chance of the image.
        size: Side of the image in pixels.
        pallor: How pale their centres are, 0 to 1.

    Returns:
        ``(size, size)`` amount of dye, about 1 in the rim of a disc; overlaps add up.
    """
    scale = size / FIELD
    centres = _scatter(rng) * scale
    count = len(centres)
    radius = np.clip(rng.normal(3.7, 0.28, count), 2.7, 4.4) * scale
    stretch = 1.0 + np.minimum(np.abs(rng.normal(0.0, 0.06, count)), 0.14)
    turn = rng.uniform(0.0, np.pi, count)
    thick = np.clip(rng.normal(1.0, 0.13, count), 0.6, 1.4).astype(np.float32)
    pale = np.clip(rng.normal(pallor, 0.15, count), 0.1, 0.95).astype(np.float32)
    pad = int(np.ceil(5.0 * scale)) + 1
    corner = np.floor(centres).astype(int) - pad
    offset = np.arange(2 * pad, dtype=np.float32)
    dx = offset[None, None, :] - (centres - corner)[:, 0, None, None].astype(np.float32)
    dy = offset[None, :, None] - (centres - corner)[:, 1, None, None].astype(np.float32)
    cos, sin = (f(turn)[:, None, None].astype(np.float32) for f in (np.cos, np.sin))
    long = (radius * stretch)[:, None, None].astype(np.float32)
    short = (radius / stretch)[:, None, None].astype(np.float32)
    square = ((dx * cos + dy * sin) / long) ** 2 + ((dy * cos - dx * sin) / short) ** 2
    # near the edge 1 - radius is about (1 - radius**2) / 2, which spares the root
    edge = np.clip((1.0 - square) * (short * (0.5 / max(0.35 * scale, 1.0))) + 0.5, 0.0, 1.0)
    hollow = 1.0 - pale[:, None, None] * np.exp(square * np.float32(-1 / 0.26))
    discs = edge * hollow * thick[:, None, None]
    margin = 4 * pad
    canvas = np.zeros((size + 2 * margin, size + 2 * margin), np.float32)
    for (left, top), disc in zip(corner + margin, discs, strict=True):
        canvas[top : top + 2 * pad, left : left + 2 * pad] += disc
    layer = canvas[margin:-margin, margin:-margin]
    return np.asarray(layer / (0.65 + 0.35 * layer), dtype=np.float32)  # overlaps saturate


def _outline(
    rng: np.random.Generator,
    radius: float,
    wave: float,
    notch: float = 0.0,
    stretch: float = 1.0,
    turn: float = 0.0,
) -> NDArray[np.float64]:
    """Outline around 0: ``(48, 2)`` in the unit of ``radius``, wavy, notched and stretched."""
    swing = rng.normal(0.0, wave, 5) / np.sqrt(_ORDERS - 1.0)
    ripple = swing @ np.cos(_ORDERS[:, None] * _ANGLES + rng.uniform(0.0, 2 * np.pi, (5, 1)))
    dent = notch * np.exp(-(((_ANGLES - np.pi) / rng.uniform(0.35, 0.6)) ** 2))
    reach = radius * np.maximum(1.0 + ripple - dent, 0.2)
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = np.array([[cos * stretch, sin * stretch], [-sin / stretch, cos / stretch]])
    return np.asarray((reach[:, None] * _CIRCLE) @ matrix, dtype=np.float64)


def fill(canvas: Bytes, outline: NDArray[np.float64], value: float) -> None:
    """Fills an outline (pixels) with ``value`` of 0 to 1, with smooth edges."""
    fixed = np.round(outline * (1 << _SHIFT)).astype(np.int32)
    level = int(np.clip(value * 160.0, 0, 255))
    cv2.fillPoly(canvas, [fixed], (level,), lineType=cv2.LINE_AA, shift=_SHIFT)


def _places(
    rng: np.random.Generator, radii: NDArray[np.float64]
) -> list[tuple[float, float, float]]:
    """Finds room for cells; ``(x, y, radius)`` each, in micrometres. Crowded ones touch."""
    placed: list[tuple[float, float, float]] = []
    for radius in radii:
        for room in (1.1, 1.02, 0.96, 0.9, 0.8, 0.0):
            x, y = rng.uniform(-0.3 * radius, FIELD + 0.3 * radius, 2)
            if all(np.hypot(x - a, y - b) > room * (radius + r) for a, b, r in placed):
                break
        placed.append((float(x), float(y), float(radius)))
    return placed


def white_cells(
    rng: np.random.Generator, size: int, kind: Morphology
) -> tuple[Layer, Layer, Layer, list[Outlines]]:
    """Draws the lymphoid cells of an image.

    Args:
        rng: Source of chance of the image.
        size: Side of the image in pixels.
        kind: What cells of the class look like.

    Returns:
        ``(size, size)`` each: dye in the cytoplasm, dye in the nuclei, where the cells lie (0
        to 1); and the outlines of each cell and its nucleus, the later ones on top.
    """
    scale = size / FIELD
    usual = kind.diameter[0] * rng.normal(1.0, 0.03)  # cells of one patient resemble each other
    nucleus = np.pi / 4 * (usual * kind.ratio[0]) ** 2
    count = max(3, round(rng.uniform(*kind.area) / nucleus))
    radii = 0.5 * np.clip(rng.normal(usual, kind.diameter[1], count), 0.75 * usual, 1.3 * usual)
    body, core, holes = (np.zeros((size, size), np.uint8) for _ in range(3))
    dyes = rng.uniform(*kind.basophilia), rng.normal(*kind.density)
    canvases = body, core, holes
    outlines = [
        _white_cell(rng, kind, canvases, np.array(disc) * scale, dyes)
        for disc in _places(rng, radii)
    ]
    mask = np.minimum(body * np.float32(1 / 100), 1.0)
    grain = _texture(rng, size, kind.grain)
    chromatin = 1.0 + rng.uniform(*kind.clumping) * np.tanh(1.2 * grain)
    nuclei = core * np.float32(1 / 160) * chromatin * (1.0 - holes * np.float32(0.42 / 160))
    cytoplasm = body * np.float32(1 / 160) * np.maximum(1.0 - core * np.float32(1 / 100), 0.0)
    return cytoplasm, nuclei, mask, outlines


def _white_cell(
    rng: np.random.Generator,
    kind: Morphology,
    canvases: tuple[Bytes, Bytes, Bytes],
    disc: NDArray[np.float64],
    dyes: tuple[float, float],
) -> Outlines:
    """Draws one cell at ``disc`` (x, y, radius in pixels) into body, core and nucleoli."""
    body, core, holes = canvases
    scale = core.shape[0] / FIELD
    x, y, radius = disc
    ratio = float(np.clip(rng.normal(*kind.ratio), 0.55, 0.97))
    stretch = np.sqrt(1.0 + rng.uniform(*kind.elongation))
    shift = (1.0 - ratio) * radius * rng.uniform(*kind.eccentricity)
    side = rng.uniform(0.0, 2 * np.pi)
    middle = np.array([x + shift * np.cos(side), y + shift * np.sin(side)])
    notch = rng.uniform(*kind.indentation) * (rng.random() < kind.indented)
    wave = rng.uniform(*kind.irregularity)
    turn = rng.uniform(0.0, 2 * np.pi)
    outer = _outline(rng, radius, 0.25 * wave + 0.012, 0.0, stretch, turn) + np.array([x, y])
    inner = _outline(rng, ratio * radius, wave, notch, stretch, turn) + middle
    fill(body, outer, dyes[0] * rng.uniform(0.85, 1.15))
    fill(core, inner, dyes[1] * rng.uniform(0.92, 1.08))
    for _ in range(rng.choice(4, p=kind.nucleoli)):
        angle, far = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.1, 0.55) * ratio * radius
        spot = _outline(rng, 0.5 * scale * rng.uniform(*kind.nucleolus), 0.05)
        fill(holes, spot + middle + far * np.array([np.cos(angle), np.sin(angle)]), 1.0)
    return outer, inner


def debris(rng: np.random.Generator, size: int) -> tuple[Layer, Layer]:
    """Draws platelets and, in some images, a smudge cell: dye as cytoplasm and as nucleus."""
    scale = size / FIELD
    pale, dark = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    for _ in range(rng.poisson(0.35)):
        radius = rng.uniform(4.5, 6.5) * scale
        smudge = _outline(rng, radius, 0.13, 0.3, rng.uniform(1.0, 1.3), rng.uniform(0.0, 6.28))
        fill(pale, smudge + rng.uniform(0.0, size, 2), rng.uniform(0.3, 0.55))
    pale = np.asarray(cv2.GaussianBlur(pale, (0, 0), max(0.7 * scale, 0.3)), dtype=np.uint8)
    for _ in range(rng.poisson(4.0)):
        centre = rng.uniform(0.0, size, 2)
        spot = _outline(rng, rng.uniform(0.5, 1.3) * scale, 0.12, 0.0, rng.uniform(1.0, 1.2))
        fill(dark, spot + centre, rng.uniform(0.25, 0.6))
    return pale * np.float32(1 / 160), dark * np.float32(1 / 160)
