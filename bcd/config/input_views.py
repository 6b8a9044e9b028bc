"""Input views: the region, normalization and size in which the network gets an image.

`data.roi` chooses the region, `model.views` the normalizations and sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bcd.errors import ConfigError

# `bcd.data.input_views` computes them.
NORMALIZATIONS = ("plain", "grey", "white_balanced", "reinhard")

# The name of the image as it is.
PLAIN_VIEW = "plain"

# Regions of interest: the whole image, its white cells with everything else painted over, the
# reverse of that, or a crop of each white cell. `bcd.data.roi` makes them.
WHOLE, MASKED, BACKGROUND, CELLS = "image", "mask", "background", "cells"
ROIS = (WHOLE, MASKED, BACKGROUND, CELLS)
# Side in pixels of the crop of a cell.
CELL_SIDE = 96
MOST_CELLS = 12  # of an image, the largest first


@dataclass(frozen=True)
class InputView:
    """One way in which the network gets an image.

    Attributes:
        normalization: One of `NORMALIZATIONS`.
        side: Height and width in pixels of what the network gets.
        roi: One of `ROIS`.
        cut_from: Height and width of the resized image that cells are cut from; None: `side`.
    """

    normalization: str
    side: int
    roi: str = WHOLE
    cut_from: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the image is only resized."""
        return self.normalization == PLAIN_VIEW and self.roi == WHOLE

    @property
    def image_side(self) -> int:
        """Height and width of the resized image."""
        return self.cut_from or self.side

    @property
    def described(self) -> InputView:
        """The view that out-of-distribution detection describes: never a part of the image.

        What makes an image unfamiliar is also seen outside its cells, and cells that were cut out
        look alike wherever they come from.
        """
        return self if self.roi == WHOLE else InputView(PLAIN_VIEW, self.image_side)


def parse_views(names: Sequence[str], size: int, roi: str = WHOLE) -> tuple[InputView, ...]:
    """The input views that `model.views` lists.

    Args:
        names: Each `<normalization>`, or `<normalization>@<side>` for another side than `size`.
        size: `model.input_size`.
        roi: `data.roi`.

    Raises:
        ConfigError: A view is unknown or listed twice, or there is none.
    """
    if not names:
        raise ConfigError(f"model.views=[]: give at least one view, such as {PLAIN_VIEW}")
    views = tuple(_parse(name, size, roi) for name in names)
    for place, (name, view) in enumerate(zip(names, views, strict=True)):
        if view in views[:place]:
            first = names[views.index(view)]
            same = "" if first == name else f" (as {first}: model.input_size is {size})"
            raise ConfigError(f"model.views: {name} is listed twice{same}; leave one of them out")
    return views


def _parse(name: str, size: int, roi: str) -> InputView:
    normalization, at, side = name.partition("@")
    if normalization not in NORMALIZATIONS:
        from bcd.config.check import nearest

        raise ConfigError(
            f"model.views: {name} is unknown; choose {', '.join(NORMALIZATIONS)}, or "
            f"<one of them>@<side in pixels>{nearest(normalization, NORMALIZATIONS)}"
        )
    if at and not (side.isascii() and side.isdigit()):
        raise ConfigError(
            f"model.views: {name}: give the side in pixels as a whole number, such as "
            f"{normalization}@320"
        )
    whole = int(side) if at else size
    if roi == CELLS:
        return InputView(normalization, CELL_SIDE, roi, whole)
    return InputView(normalization, whole, roi)
