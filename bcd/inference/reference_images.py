"""What the images of a reference set must be, so that it is worth what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bcd.console import say
from bcd.data.layouts import Entry
from bcd.data.load import given_group
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.reference_set import ReferenceImage
from bcd.inference.predictor import Predictor


def check_groups(entries: Sequence[Entry], base: Path, pattern: str | None) -> None:
    """Checks that every image has a slide or patient, if any has or should have.

    An image without one would count as a patient of its own, and the set cannot be mended later.

    Raises:
        BcdError: Some have none.
        ConfigError: The pattern matches none.
    """
    alone = [entry.path for entry in entries if not given_group(entry, base, pattern)]
    n = len(entries)
    if pattern is not None and len(alone) == n:
        raise ConfigError(f"data.group_pattern={pattern}: matches none of {n} paths")
    if alone and len(alone) < n:
        raise BcdError(
            f"{len(alone)} of {n} images have no group (first: {alone[0]}): name the slide or "
            "patient of every image, also of one that has no other, or of none"
        )


def without_copies(images: Sequence[ReferenceImage], groups: Sequence[str]) -> list[ReferenceImage]:
    """The first of every image, as copies are no independent trials; says how many are left out.

    Args:
        images: All, with copies.
        groups: That somebody gave; a file of several pictures is none.

    Raises:
        BcdError: Copies have different classes or groups.
    """
    first: dict[str, tuple[ReferenceImage, str]] = {}
    for image, group in zip(images, groups, strict=True):
        known, known_group = first.setdefault(image.sha256, (image, group))
        for what, a, b in (
            ("classes", known.class_name, image.class_name),
            ("groups", known_group, group),
        ):
            if a != b:
                raise BcdError(
                    f"{known.path} and {image.path} are the same image (same sha256) with the "
                    f"{what} '{a}' and '{b}': take out the wrong one"
                )
    if copies := len(images) - len(first):
        say(
            f"warning: {copies} of {len(images)} images are copies of others (same sha256) and "
            "left out"
        )
    return [image for image, _ in first.values()]


def size_text(images: Sequence[ReferenceImage]) -> str:
    """How many images and groups a set has, in words."""
    groups = fill_group_names([image.group for image in images])
    if groups is None:
        return f"{len(images)} images without groups, so that each counts as a patient of its own"
    return f"{len(images)} images of {len(set(groups))} groups"


def refuse_own(profile: str | None, predictor: Predictor, hashes: Sequence[str]) -> None:
    """Checks that a profile does not change images of the run, as `bcd eval` does.

    Only a checkpoint knows which these are.

    Raises:
        ConfigError: It does.
    """
    card = getattr(predictor.model, "card", None)
    if profile is None or card is None:
        return
    own: set[str] = card.sha256s()
    if count := sum(sha256 in own for sha256 in hashes):
        raise ConfigError(
            f"site.profile: belongs to the images of one site, but {count} of {len(hashes)} "
            "images of the set are the run's own (same sha256): remove them"
        )
