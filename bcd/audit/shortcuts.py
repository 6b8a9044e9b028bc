"""Shortcut checks: what the scores of probes mean for the data, and what fixes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from bcd.audit.checks import FAIL, PASS, WARN, Check
from bcd.audit.probes import ProbeScore, SkippedProbe
from bcd.audit.sources import BACKGROUND, COLOUR, CORNER, MASKED, PATCHES

NETWORK = "the network"
WITHOUT_COLOUR = "the network, colour regressed out"

# AUROC of the class that is predicted best. A source that predicts a single class is a shortcut,
# even if it does not predict the others and its balanced accuracy is low.
_WARN_AUROC, _FAIL_AUROC = 0.85, 0.95
_MARK = 0.05  # by how much the balanced accuracy of a marked corner exceeds that of other corners
_MIN_REMAINING = (
    0.5  # share of the accuracy above chance that must remain without colour; else WARN
)

_FIXES = {
    **dict.fromkeys((BACKGROUND, PATCHES, COLOUR), "augment=strong"),
    "border": "augment=strong",
    "16 x 16 thumbnail": "augment=strong",
    "file size and JPEG tables": "save all classes with the same program and quality",
    MASKED: "data.mask_scale_bar=true",
}
_PREFIX = "shortcut: "
_CROP = "crop the corner in all images"


def check_shortcuts(
    scores: Sequence[ProbeScore | SkippedProbe], network: Sequence[ProbeScore] = ()
) -> list[Check]:
    """Makes a check for each source, with the status from its score on the configured split.

    Args:
        scores: Of each source on each split; the configured split is first.
        network: Of the network, with and without colour, on each split; may be empty.
    """
    reaches = {s.split: s.balanced_accuracy for s in network if s.source == NETWORK}
    checks = []
    measured = [s for s in scores if isinstance(s, ProbeScore)]
    own_split = scores[0].split if scores else ""
    corners = [s for s in measured if s.source.startswith(CORNER) and s.split == own_split]
    usual = float(np.median([s.balanced_accuracy for s in corners])) if corners else 0.0
    for source in dict.fromkeys(s.source for s in scores):
        own, *others = (s for s in scores if s.source == source)
        status = _status(own, usual)
        findings = [_finding(s, reaches.get(s.split)) for s in (own, *others)]
        if isinstance(own, ProbeScore) and status != PASS:
            findings.append(f"predicts {own.best_class} best (AUROC {own.best_auroc:.3f})")
        fix = _FIXES.get(source, _CROP) if isinstance(own, ProbeScore) and status != PASS else ""
        facts = {"scores": [asdict(s) for s in measured if s.source == source]}
        checks.append(Check(_PREFIX + source, status, "; ".join(findings), fix, facts))
    return checks + _check_without_colour(network)


def _status(own: ProbeScore | SkippedProbe, usual: float) -> str:
    """Status of a source on the configured split; `usual` is the corners' median."""
    if isinstance(own, SkippedProbe):
        return WARN
    # Corners contain cells too; a mark makes a corner predict more than the other corners.
    marked = not own.source.startswith(CORNER) or own.balanced_accuracy >= usual + _MARK
    if own.best_auroc < _WARN_AUROC or not marked:
        return PASS
    return FAIL if own.best_auroc >= _FAIL_AUROC else WARN


def _finding(score: ProbeScore | SkippedProbe, network: float | None) -> str:
    if isinstance(score, SkippedProbe):
        return f"not measured on the {score.split} split: {score.reason}"
    beside = "" if network is None else f" (the network {network:.1%})"
    text = f"balanced accuracy {score.balanced_accuracy:.1%} on the {score.split} split{beside}"
    if score.left_out:
        text += f", {score.left_out} of {score.n + score.left_out} left out"
    if score.source == BACKGROUND and network is not None:
        text += f", {without_cells(score, network)}"
    return text


def without_cells(background: ProbeScore, network: float) -> str:
    """Compares the background's accuracy above chance with the network's, in one clause.

    Args:
        background: Score of the background alone.
        network: The network's balanced accuracy on the same split.
    """
    share = _share(background, network)
    if share is None:
        return f"and the network is not above chance ({background.chance:.1%})"
    return (
        f"so {share:.0%} of the network's balanced accuracy above chance "
        f"({background.chance:.1%}) can be reached without seeing a cell"
    )


def shortcut_lines(checks: Sequence[Check], network: float, text: str) -> list[str]:
    """Sentences for a run's report, one for each source.

    Args:
        checks: Of the run's audit; other checks are ignored.
        network: The run's balanced accuracy on test.
        text: The same with its interval, as text.
    """
    lines = []
    for check in (check for check in checks if check.name.startswith(_PREFIX)):
        if not check.facts["scores"]:
            lines.append(f"{check.name.removeprefix(_PREFIX).capitalize()}: {check.finding}.")
        for facts in check.facts["scores"]:
            found = ProbeScore(**facts)
            line = (
                f"{found.source.capitalize()}: a random forest on these alone predicts the class "
                f"with a balanced accuracy of {found.balanced_accuracy:.3f} on the same split"
            )
            if found.left_out:
                line += f" ({found.left_out} of {found.n + found.left_out} left out)"
            line += f"; the network reaches {text}"
            if found.source == BACKGROUND:
                line += f", {without_cells(found, network)}"
            lines.append(f"{line}.")
    return lines


def _check_without_colour(network: Sequence[ProbeScore]) -> list[Check]:
    """Checks what the network predicts beyond what is linear in colour; empty if not scored."""
    whole = {s.split: s for s in network if s.source == NETWORK}
    pairs = [(s, whole[s.split]) for s in network if s.source == WITHOUT_COLOUR]
    if not pairs:
        return []
    findings = []
    for left, full in pairs:
        text = (
            f"balanced accuracy {left.balanced_accuracy:.1%} on the {left.split} split, "
            f"{full.balanced_accuracy:.1%} with colour"
        )
        share = _share(left, full.balanced_accuracy)
        kept = "not above chance" if share is None else f"{share:.0%} of the excess over chance"
        findings.append(f"{text} ({kept})")
    left, full = pairs[0]
    own = _share(left, full.balanced_accuracy)
    status = WARN if own is None or own < _MIN_REMAINING else PASS
    fix = "augment=strong; check with corruptions=standard" if status == WARN else ""
    facts = {"scores": [asdict(s) for s in network]}
    return [Check("network without colour", status, "; ".join(findings), fix, facts)]


def _share(part: ProbeScore, whole: float) -> float | None:
    """Share of a balanced accuracy above chance that a score reaches; None if it has none."""
    above = whole - part.chance
    return None if above <= 0 else max(part.balanced_accuracy - part.chance, 0.0) / above
