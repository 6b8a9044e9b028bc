"""Matches images of a site for a checkpoint, and tells how images differ from its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from bcd.config.programs import SiteMatchConfig
from bcd.console import say
from bcd.data.matching import Match
from bcd.data.quality.appearance import Appearance, measure_appearance
from bcd.data.site_match import make_match
from bcd.data.site_profile import read_profile
from bcd.errors import BcdError
from bcd.evaluation.appearance import find_differences

if TYPE_CHECKING:  # imports torch
    from bcd.inference.parts import Part


class Trained(Protocol):
    """What is known of a model's training images; a `Card` and `ModelFacts` have it."""

    @property
    def appearance(self) -> Mapping[str, Any] | None: ...  # noqa: D102

    @property
    def recalibration(self) -> Mapping[str, Any] | None: ...  # noqa: D102

    @property
    def mask_scale_bar(self) -> bool: ...  # noqa: D102


def find_match(cfg: SiteMatchConfig, card: Trained) -> Match | None:
    """How images are matched to the training images of a checkpoint.

    Args:
        cfg: The `site` group.
        card: The checkpoint's card, or what an exported model says about itself.

    Returns:
        The match; None without a profile.

    Raises:
        BcdError: The profile cannot be used, or the card does not describe the training images.
    """
    if cfg.profile is None:
        return None
    own = _own(card)
    if own is None:
        raise BcdError(
            f"site.profile={cfg.profile}: the checkpoint does not describe its training images "
            "(its run did not end, or had too few): nothing to match to"
        )
    if card.recalibration is not None:
        raise BcdError(
            f"site.profile={cfg.profile}: the checkpoint was recalibrated with images that were "
            "not matched: give the original checkpoint"
        )
    if not cfg.scale and cfg.colour == "none":
        say("warning: site.profile has no effect with site.scale=false and site.colour=none")
    return make_match(own, read_profile(cfg.profile).appearance, cfg.scale, cfg.colour)


def describe_match(match: Match | None) -> list[str]:
    """What a match does to every image, in words; empty without one."""
    if match is None:
        return []
    words = []
    if match.scale > 1:
        words.append(
            f"enlarged {match.scale:.2f} times, so that only the central "
            f"{1 / match.scale**2:.0%} of its area is seen"
        )
    elif match.scale < 1:
        words += [f"reduced to {match.scale:.2f} of its size", "surrounded by mirror images"]
    if match.colour is not None:
        words.append("given the colours of the training images")
    if not words:
        return []
    *before, last = words
    listed = f"{', '.join(before)}{',' * (len(before) > 1)} and {last}" if before else last
    return [f"site.profile: every image is {listed}"]


def _own(card: Trained) -> Appearance | None:
    return None if card.appearance is None else Appearance.from_plain(card.appearance)


def tell_differences(
    card: Trained, given: Appearance | None, match: Match | None, name: str = "these images"
) -> list[str]:
    """Prints how images differ from the training images, if they do; returns the differences.

    Args:
        card: Of the checkpoint, or what an exported model says about itself.
        given: Of the images, matched if they were; None if too few can be measured.
        match: How they were matched.
        name: What to call them.
    """
    own = _own(card)
    found = [] if own is None or given is None else find_differences(own, given)
    if found:
        state = "even after matching, " if match is not None else ""
        say(f"warning: {state}{name} differ from the training images: {'; '.join(found)}")
    return found


def tell_appearance(match: Match | None, card: Trained, part: Part) -> dict[str, Any]:
    """Measures the images of a part, prints how they differ, and returns what `run.json` records.

    Args:
        match: How the images are matched, from `find_match`.
        card: Of the checkpoint, or what an exported model says about itself.
        part: The images.

    Raises:
        BcdError: An image has changed or is missing since the catalog was made.
    """
    name = "these images" if part.key == "all" else f"the images of {part.key}"
    given = measure_appearance(part.catalog, part.indices, card.mask_scale_bar, match)
    for line in describe_match(match):
        say(line)
    return {
        "differences": tell_differences(card, given, match, name),
        "measured": None if given is None else given.to_plain(),
        "match": None if match is None else match.to_plain(),
    }
