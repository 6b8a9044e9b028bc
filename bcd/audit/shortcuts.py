"""Shortcuts: what the scores of probes say of the data, and what fixes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from bcd.audit.checks import FAIL, PASS, WARN, Check
from bcd.audit.probes import Score, Unmeasured
from bcd.audit.sources import BACKGROUND, COLOUR, CORNER, MASKED, PATCHES

NETWORK = "the network"
DECOLOURED = "the network, colour regressed out"

# Area under the curve of the class that is told best. A class that nothing but its corner tells is
# a shortcut, even if the corner says nothing of the others and the balanced accuracy is low.
_TELLS, _GIVES_AWAY = 0.85, 0.95
_MARK = 0.05  # balanced accuracy by which a marked corner is above the other corners
_HALF = 0.5  # of the network's accuracy above chance: where less is left without colour, WARN

_FIXES = {
    **dict.fromkeys((BACKGROUND, PATCHES, COLOUR), "augment=strong"),
    "border": "augment=strong",
    "16 x 16 thumbnail": "augment=strong",
    "file size and JPEG tables": "save all classes with one program and one quality",
    MASKED: "data.mask_scale_bar=true",
}
_NAME = "shortcut: "
_CROP = "crop the corner off in all images"


def check_shortcuts(
    scores: Sequence[Score | Unmeasured], network: Sequence[Score] = ()
) -> list[Check]:
    """A check for each source, from its score on the user's own split, the first of its scores.

    Args:
        scores: Of each source on each split.
        network: Of the network, as it is and without colour, on each split; may be empty.
    """
    reaches = {s.split: s.balanced_accuracy for s in network if s.source == NETWORK}
    checks = []
    measured = [s for s in scores if isinstance(s, Score)]
    own_split = scores[0].split if scores else ""
    corners = [s for s in measured if s.source.startswith(CORNER) and s.split == own_split]
    usual = float(np.median([s.balanced_accuracy for s in corners])) if corners else 0.0
    for source in dict.fromkeys(s.source for s in scores):
        own, *others = (s for s in scores if s.source == source)
        status = _status(own, usual)
        told = [_told(s, reaches.get(s.split)) for s in (own, *others)]
        if isinstance(own, Score) and status != PASS:
            told.append(f"tells {own.best_class} best (area {own.best_auroc:.3f})")
        fix = _FIXES.get(source, _CROP) if isinstance(own, Score) and status != PASS else ""
        facts = {"scores": [asdict(s) for s in measured if s.source == source]}
        checks.append(Check(_NAME + source, status, "; ".join(told), fix, facts))
    return checks + _decoloured(network)


def _status(own: Score | Unmeasured, usual: float) -> str:
    """Of a source by its own score; `usual` is the corners' median balanced accuracy."""
    if isinstance(own, Unmeasured):
        return WARN
    # A corner holds cells too; a mark makes it tell more than the other corners do.
    marked = not own.source.startswith(CORNER) or own.balanced_accuracy >= usual + _MARK
    if own.best_auroc < _TELLS or not marked:
        return PASS
    return FAIL if own.best_auroc >= _GIVES_AWAY else WARN


def _told(score: Score | Unmeasured, network: float | None) -> str:
    if isinstance(score, Unmeasured):
        return f"not measured on the {score.split} split: {score.reason}"
    beside = "" if network is None else f" (the network {network:.1%})"
    told = f"{score.balanced_accuracy:.1%} balanced on the {score.split} split{beside}"
    if score.left_out:
        told += f", {score.left_out} of {score.n + score.left_out} left out"
    if score.source == BACKGROUND and network is not None:
        told += f", {without_cells(score, network)}"
    return told


def without_cells(background: Score, network: float) -> str:
    """How much of a network's accuracy above chance the background has too, in a few words.

    Args:
        background: Score of the background alone.
        network: The network's balanced accuracy on the same split.
    """
    share = _share(background, network)
    if share is None:
        return f"where the network is not above chance ({background.chance:.1%})"
    return (
        f"so {share:.0%} of what the network has above chance "
        f"({background.chance:.1%}) can be had without seeing a cell"
    )


def shortcut_lines(checks: Sequence[Check], network: float, text: str) -> list[str]:
    """What a run's report says of each source, a line each.

    Args:
        checks: Of the run's audit; those of other things are passed over.
        network: The run's own balanced accuracy on test.
        text: The same as it is written, with its interval.
    """
    lines = []
    for check in (check for check in checks if check.name.startswith(_NAME)):
        if not check.facts["scores"]:
            lines.append(f"{check.name.removeprefix(_NAME).capitalize()}: {check.finding}.")
        for facts in check.facts["scores"]:
            found = Score(**facts)
            line = (
                f"{found.source.capitalize()}: a forest on these alone tells the class with a "
                f"balanced accuracy of {found.balanced_accuracy:.3f} on the same split"
            )
            if found.left_out:
                line += f" ({found.left_out} of {found.n + found.left_out} left out)"
            line += f"; the network reaches {text}"
            if found.source == BACKGROUND:
                line += f", {without_cells(found, network)}"
            lines.append(f"{line}.")
    return lines


def _decoloured(network: Sequence[Score]) -> list[Check]:
    """What the network is shown to know beyond what is linear in colour; none if not asked."""
    whole = {s.split: s for s in network if s.source == NETWORK}
    pairs = [(s, whole[s.split]) for s in network if s.source == DECOLOURED]
    if not pairs:
        return []
    told = []
    for left, full in pairs:
        text = (
            f"{left.balanced_accuracy:.1%} balanced on the {left.split} split, "
            f"{full.balanced_accuracy:.1%} with colour"
        )
        share = _share(left, full.balanced_accuracy)
        kept = "not above chance with it" if share is None else f"{share:.0%} of that above chance"
        told.append(f"{text} ({kept})")
    left, full = pairs[0]
    own = _share(left, full.balanced_accuracy)
    status = WARN if own is None or own < _HALF else PASS
    fix = "augment=strong, and see corruptions=standard" if status == WARN else ""
    facts = {"scores": [asdict(s) for s in network]}
    return [Check("network without colour", status, "; ".join(told), fix, facts)]


def _share(part: Score, whole: float) -> float | None:
    """Share of a balanced accuracy above chance that a score reaches; None where it has none."""
    above = whole - part.chance
    return None if above <= 0 else max(part.balanced_accuracy - part.chance, 0.0) / above
