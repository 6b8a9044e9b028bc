"""Input views (`model.views`): the normalizations and sizes in which the network gets an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bcd.errors import ConfigError

# `bcd.data.input_views` computes them.
NORMALIZATIONS = ("plain", "grey", "white_balanced", "reinhard")

# The name of the image as it is.
PLAIN_VIEW = "plain"


@dataclass(frozen=True)
class InputView:
    """One way in which the network gets an image.

    Attributes:
        normalization: One of `NORMALIZATIONS`.
        side: Height and width in pixels.
    """

    normalization: str
    side: int

    @property
    def is_plain(self) -> bool:
        """Whether the image is only resized."""
        return self.normalization == PLAIN_VIEW


def parse_views(names: Sequence[str], size: int) -> tuple[InputView, ...]:
    """The input views that `model.views` lists.

    Args:
        names: Each `<normalization>`, or `<normalization>@<side>` for another side than `size`.
        size: `model.input_size`.

    Raises:
        ConfigError: A view is unknown or listed twice, or there is none.
    """
    if not names:
        raise ConfigError(f"model.views=[]: give at least one view, such as {PLAIN_VIEW}")
    views = tuple(_parse(name, size) for name in names)
    for place, (name, view) in enumerate(zip(names, views, strict=True)):
        if view in views[:place]:
            first = names[views.index(view)]
            same = "" if first == name else f" (as {first}: model.input_size is {size})"
            raise ConfigError(f"model.views: {name} is listed twice{same}; leave one of them out")
    return views


def _parse(name: str, size: int) -> InputView:
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
    return InputView(normalization, int(side) if at else size)
