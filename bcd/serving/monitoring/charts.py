"""Geometry of the dashboard's charts; the template draws them as SVG without any style in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bcd.serving import words

WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 10, 26  # margins, for the labels of the axes
_STEPS = (1, 2, 2.5, 5, 10)  # of labels, times a power of ten
_LABELS = 6  # along the horizontal axis at most


@dataclass(frozen=True)
class Tick:
    """A label of an axis at a place, in pixels."""

    place: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A rectangle, in pixels, with what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Dot:
    """A point, in pixels, with what it says when pointed at."""

    x: float
    y: float
    title: str
    alarm: bool


@dataclass(frozen=True)
class Line:
    """Values of one kind over time.

    Attributes:
        kind: Class of its elements.
        parts: `points` of polylines; there are gaps where values are unknown.
        dots: One per known value.
    """

    kind: str
    parts: list[str]
    dots: list[Dot]


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: What it shows, in words.
        across: Labels of the horizontal axis.
        up: Labels of the vertical axis.
        bars: Counts.
        lines: Values.
        band: `points` of a polygon of what is expected; empty for none.
    """

    title: str
    across: list[Tick]
    up: list[Tick]
    bars: list[Bar]
    lines: list[Line]
    band: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


def bar_chart(title: str, names: Sequence[str], counts: Sequence[int]) -> Chart:
    """Counts by name, one bar each."""
    highest, up = _scale(max([*counts, 1]), whole=True)
    wide = _slot(len(names))
    bars = [
        Bar(_x(i, wide) - 0.4 * wide, y, round(0.8 * wide, 2), HEIGHT - _BOTTOM - y,
            f"{name}: {count}")
        for i, (name, count) in enumerate(zip(names, counts, strict=True))
        if count
        for y in [_y(count, highest)]
    ]  # fmt: skip
    return Chart(title, _across(names), up, bars, [])


def line_chart(
    title: str,
    names: Sequence[str],
    values: dict[str, Sequence[float | None]],
    alarms: Sequence[bool] = (),
    band: Sequence[tuple[float, float] | None] = (),
    percent: bool = False,
) -> Chart:
    """Values over time.

    Args:
        title: What it shows.
        names: Of the places along the horizontal axis, (n,).
        values: By kind, (n,) each; None where unknown.
        alarms: Which places are an alarm, (n,); none if empty.
        band: Expected lowest and highest value, (n,); the polygon leaves out None.
        percent: Whether the values are shares, shown in percent.
    """
    known = [v for own in values.values() for v in own if v is not None]
    known += [pair[1] for pair in band if pair is not None]
    highest, up = _scale(max([*known, 0.01]), percent=percent)
    wide = _slot(len(names))
    lines = []
    for kind, own in values.items():
        parts: list[list[str]] = [[]]
        dots = []
        for i, value in enumerate(own):
            if value is None:
                parts.append([])
                continue
            x, y = _x(i, wide), _y(value, highest)
            shown = words.percent(value) if percent else f"{value:.3g}"
            parts[-1].append(f"{x},{y}")
            dots.append(Dot(x, y, f"{names[i]}, {kind}: {shown}", bool(alarms) and alarms[i]))
        lines.append(Line(kind, [" ".join(part) for part in parts if len(part) > 1], dots))
    inside = [(i, pair) for i, pair in enumerate(band) if pair is not None]
    ends = (-0.5, 0.5)  # of a place, so that the band of a single one can be seen
    lower = [f"{_x(i + e, wide)},{_y(pair[0], highest)}" for i, pair in inside for e in ends]
    upper = [f"{_x(i + e, wide)},{_y(pair[1], highest)}" for i, pair in inside for e in ends][::-1]
    return Chart(title, _across(names), up, [], lines, " ".join(lower + upper))


def _slot(n: int) -> float:
    return (WIDTH - _LEFT - _RIGHT) / max(n, 1)


def _x(place: float, wide: float) -> float:
    return round(_LEFT + (place + 0.5) * wide, 2)


def _y(value: float, highest: float) -> float:
    return round(HEIGHT - _BOTTOM - value / highest * (HEIGHT - _TOP - _BOTTOM), 2)


def _scale(most: float, whole: bool = False, percent: bool = False) -> tuple[float, list[Tick]]:
    """The end of the vertical axis, and four or five labels."""
    power = 10.0 ** math.floor(math.log10(most / 4))
    step = next(power * s for s in _STEPS if power * s * 4 >= most)
    if whole:
        step = max(float(math.ceil(step - 1e-9)), 1.0)
    highest = 4 * step
    values = [i * step for i in range(5)]
    labels = [f"{100 * v:.3g} %" if percent else f"{v:.6g}" for v in values]
    return highest, [Tick(_y(v, highest), label) for v, label in zip(values, labels, strict=True)]


def _across(names: Sequence[str]) -> list[Tick]:
    """Labels of at most six places, evenly spaced."""
    step = -(-len(names) // _LABELS) or 1
    wide = _slot(len(names))
    return [Tick(_x(i, wide), names[i]) for i in range(0, len(names), step)]
