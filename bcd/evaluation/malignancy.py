"""Metrics of the probability of malignancy, for images known to be benign or malignant.

They need no other label, so they also apply to images of sites that do not know the model's
classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import Groups
from bcd.evaluation.calibration import (
    calibrated_error_level,
    debiased_calibration_error,
    reliability,
)
from bcd.evaluation.confusion_intervals import confusion_intervals
from bcd.evaluation.metrics import brier_scores, losses
from bcd.evaluation.probability_intervals import probability_intervals

TWO = ("benign", "malignant")


def malignancy_metrics(
    p_malignant: NDArray[np.floating[Any]],
    malignant: NDArray[np.bool_],
    groups: Groups | None = None,
    intervals: bool = True,
) -> dict[str, Any]:
    """Ranking and calibration of the probability of malignancy.

    Loss, Brier score and calibration error are those of `compute_metrics` for the two classes
    benign and malignant, so the Brier score is between 0 and 2.

    Args:
        p_malignant: (n,), between 0 and 1.
        malignant: (n,), the truth.
        groups: (n,), group of each image; None if images are independent.
        intervals: Whether to compute them.

    Returns:
        Ready for JSON. `auroc` is None if all images are of one kind, and `auroc_note` says so.
    """
    from sklearn.metrics import roc_auc_score

    truth = malignant.astype(np.int64)
    both = np.column_stack([1 - p_malignant, p_malignant])
    ranked = bool(malignant.any() and not malignant.all())
    found: dict[str, Any] = {
        "auroc": float(roc_auc_score(malignant, p_malignant)) if ranked else None,
        "auroc_note": "" if ranked else f"all images are {TWO[int(malignant.any())]}",
        "loss": float(losses(both, truth).mean()),
        "brier": float(brier_scores(both, truth).mean()),
        "ece": reliability(both, truth).ece,
        "ece_debiased": debiased_calibration_error(both, truth),
        "ece_if_calibrated": calibrated_error_level(both)._asdict(),
    }
    if intervals:
        ci = probability_intervals(both, truth, TWO, groups)
        limits = {name: ci[name] for name in ("loss", "brier")}
        limits["auroc"] = ci["auroc_by_class"][TWO[1]]
        found |= {f"{name}_ci": pair and list(pair) for name, pair in limits.items()}
    return found


def share_interval(chosen: NDArray[np.bool_], groups: Groups | None = None) -> list[float]:
    """95 % interval [low, high] of the share of images that are chosen, (n,)."""
    ones = np.ones(len(chosen), np.int64)
    low, high = confusion_intervals(ones, chosen.astype(np.int64), ("no", "yes"), None, groups)[
        "accuracy"
    ]
    return [low, high]
