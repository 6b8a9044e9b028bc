"""How images differ from the training images in scale and colour, in words."""

from __future__ import annotations

from collections.abc import Sequence

from bcd.data.quality.appearance import Appearance, Spread

# CIELAB: lightness, from green to red, from blue to yellow.
_WORDS = (("darker", "lighter"), ("greener", "redder"), ("bluer", "yellower"))


def find_differences(own: Appearance, given: Appearance) -> list[str]:
    """Names what differs by more than the training images vary among themselves.

    A median over images counts as different if it is outside of the range of the central 95 % of
    training images. What was not measured in either set is not compared.

    Args:
        own: Of the training images.
        given: Of the images to judge.

    Returns:
        Such as "cells 1.7 times larger than in training (…)"; empty where nothing differs.
    """
    found = []
    if own.cells is not None and given.cells is not None and _is_outside(own.cells, given.cells):
        found.append(_of_cells(own.cells, given.cells))
    if own.background is not None and given.background is not None:
        found += _of_colours("background", own.background, given.background)
    found += _of_colours("whole images", own.colours, given.colours)
    return found


def _is_outside(own: Spread, given: Spread) -> bool:
    return not own.low <= given.median <= own.high


def _of_cells(own: Spread, given: Spread) -> str:
    ratio = given.median / own.median
    word, times = ("larger", ratio) if ratio > 1 else ("smaller", 1 / ratio)
    return (
        f"cells {times:.1f} times {word} than in training (red cells of {given.median:.0f} pixels "
        f"of 224; training images {own.median:.0f}, 95 % of them {own.low:.0f} to {own.high:.0f})"
    )


def _of_colours(what: str, own: Sequence[Spread], given: Sequence[Spread]) -> list[str]:
    words = []
    for names, known, one in zip(_WORDS, own, given, strict=True):
        if _is_outside(known, one):
            change = one.median - known.median
            words.append(f"{names[change > 0]} by {abs(change):.0f}")
    return [f"{what} {' and '.join(words)} (CIELAB)"] if words else []
