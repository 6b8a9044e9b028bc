"""Report sections on what a release does only where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcd.audit.checks import FAIL, PASS
from bcd.evaluation.decision import DISAGREES
from bcd.evaluation.unsafe import UNSAFE_SHARES
from bcd.release.facts import ReleaseFacts
from bcd.reporting.document import Block, Figure, Section, Table
from bcd.reporting.results import UNSAFE_COLUMNS, metric_text

CURVE_FIGURE = "learning_curve"


def options(facts: ReleaseFacts) -> list[Section]:
    """Sections on what is done only where it is asked for."""
    found: list[Section] = []
    if facts.gain is not None:
        found.append(Section("Test-time views", [gain_text(facts)]))
    if facts.curve is not None:
        found.append(_curve(facts.curve))
    if facts.gate is not None:
        found.append(Section("Comparison with the earlier release", [gate_line(facts)]))
    return found


def budget_note(facts: ReleaseFacts) -> str:
    """States where the threshold alone refers more than the budget; empty if it does not."""
    metrics = facts.metrics
    share = metrics["referral_reasons"].get(DISAGREES, 0) / metrics["n"]
    if share <= facts.settings.refer:
        return ""
    return (
        f"The threshold contradicts the most probable class for {share:.1%} of the images, more "
        f"than decision.refer={facts.settings.refer:g}: they are referred, and no others because "
        "of a limit. More slides, or a lower decision.sensitivity, bring the threshold closer to "
        "0.5."
    )


def gain_text(facts: ReleaseFacts) -> str:
    """What test-time views change, and whether they are kept."""
    gain = facts.gain
    assert gain is not None
    low, high = gain.loss_gain_ci
    kept = "They are part of the model." if gain.kept else "They were left out."
    return (
        f"Averaging over the views {gain.kind} changes the out-of-fold log loss from "
        f"{gain.loss[0]:.4f} to {gain.loss[1]:.4f} (reduction {gain.loss_gain:.4f} [{low:.4f}, "
        f"{high:.4f}]) and the accuracy from {gain.accuracy[0]:.4f} to {gain.accuracy[1]:.4f}; an "
        f"image takes {gain.passes} passes of the network. {kept} They are kept if the interval "
        "of the reduction is above 0; the figures of this report are those of what was kept, so "
        "they are slightly optimistic about this choice. Metrics under corruption were measured "
        "without test-time views."
    )


def _curve(curve: Mapping[str, Any]) -> Section:
    points = curve["points"]
    unsafe = [name for name in UNSAFE_SHARES if name in points[0]]
    rows = [
        [
            f"{point['share']:.0%}", f"{point['groups']:.1f}", f"{point['images']:.0f}",
            *(metric_text(point, name) or "-" for name in ("accuracy", *unsafe)),
        ]
        for point in points
    ]  # fmt: skip
    header = ["share", "groups", "images", "accuracy", *(UNSAFE_COLUMNS[n] for n in unsafe)]
    blocks: list[Block] = [
        "Members trained on a share of the training slides; numbers are means over the folds.",
        Table(header, rows),
        Figure(CURVE_FIGURE, "accuracy against the number of groups trained on"),
    ]
    if fit := curve["fit"]:
        low, high = fit["at_double_ci"]
        blocks.append(
            f"The error falls as the number of groups to the power of -{fit['exponent']:.2f}. If "
            f"that continues, twice the groups give an accuracy of {fit['at_double']:.4f} "
            f"[{low:.3f}, {high:.3f}]. Three points cannot show whether it continues."
        )
    return Section("Learning curve", blocks)


def gate_line(facts: ReleaseFacts) -> str:
    """The result of the comparison with an earlier release."""
    gate = facts.gate
    assert gate is not None
    value, low, high = (100 * x for x in gate.differences["accuracy"])
    seen = (
        f"{gate.n} images that both judged out of fold ({gate.n_new} more are new): accuracy "
        f"{gate.accuracy[0]:.4f} before, {gate.accuracy[1]:.4f} now ({value:+.1f} points "
        f"[{low:+.1f}, {high:+.1f}], p {gate.p_value:.4f})"
    )
    if gate.passed:
        return f"{PASS}: not worse than {gate.old} by more than chance, on {seen}."
    return f"{FAIL}: worse than {gate.old}, on {seen}: {'; '.join(gate.reasons)}."
