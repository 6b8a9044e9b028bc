"""The table of metrics under corruptions, from probabilities and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.calibration import reliability
from bcd.evaluation.corruption_suites import Corruption
from bcd.evaluation.metrics import confusion, confusion_metrics
from bcd.evaluation.unsafe import UNSAFE_SHARES, unsafe_metrics

Rows = list[dict[str, Any]]


def robustness_table(
    suite: Sequence[Corruption],
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    refer: NDArray[np.bool_] | None = None,
    called: NDArray[np.bool_] | None = None,
    benign: int | None = None,
    groups: Sequence[str] = (),
) -> Rows:
    """Computes metrics under each corruption, as `metrics.json` defines them.

    Args:
        suite: The corruptions.
        probabilities: (1 + corruptions, n, classes), uncorrupted images first.
        labels: (n,).
        refer: (1 + corruptions, n): which images are referred to a person; None if undecided.
            Accuracy and calibration error are over all images, referred or not.
        called: (1 + corruptions, n): which images are called malignant; None if undecided.
        benign: Index of the benign class; None if there is none.
        groups: (n,), for the intervals of unsafe answers; empty if images are independent.

    Returns:
        A row for the uncorrupted images (kind `none`) and one for each corruption, ready for JSON:
        kind, strength, accuracy, balanced_accuracy, ece, referred (share; None if undecided), n.
        If benign, refer and called are given, also the shares of unsafe answers with the limits of
        their intervals as `<share>_low` and `<share>_high`.
    """
    names = [("none", ""), *((corruption.kind, corruption.strength_label) for corruption in suite)]
    named = fill_group_names(groups) if groups else None
    rows: Rows = []
    for number, ((kind, strength), values) in enumerate(zip(names, probabilities, strict=True)):
        matrix = confusion(labels, values.argmax(axis=1), values.shape[1])
        metrics = confusion_metrics(matrix)
        row = {
            "kind": kind,
            "strength": strength,
            "accuracy": float(metrics["accuracy"]),
            "balanced_accuracy": float(metrics["balanced_accuracy"]),
            "ece": reliability(values, labels).ece,
            "referred": None if refer is None else float(refer[number].mean()),
        }
        if benign is not None and refer is not None and called is not None:
            row |= _unsafe_cells(labels != benign, called[number], refer[number], named)
        rows.append({**row, "n": len(labels)})
    return rows


def _unsafe_cells(
    malignant: NDArray[np.bool_],
    called: NDArray[np.bool_],
    refer: NDArray[np.bool_],
    groups: list[str] | None,
) -> dict[str, float | None]:
    """Each share of unsafe answers and the limits of its interval, for one corruption."""
    found = unsafe_metrics(malignant, called, refer, groups)
    cells: dict[str, float | None] = {}
    for name in UNSAFE_SHARES:
        low, high = found[f"{name}_ci"] or (None, None)
        cells |= {name: found[name], f"{name}_low": low, f"{name}_high": high}
    return cells
