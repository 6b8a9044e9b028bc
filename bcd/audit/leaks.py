"""Leaks: test pictures whose field was trained or chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bcd.data.catalog import Catalog
from bcd.data.survey import Survey
from bcd.evaluation.predictions import Prediction


def leaked(survey: Survey, trained: Sequence[int], tested: Sequence[int]) -> list[int]:
    """Those of the tested pictures that are, or have a twin, among the trained ones.

    Args:
        survey: Of the catalog that the indices count in.
        trained: Indices of what was trained or chosen on.
        tested: Indices of the test part.
    """
    clusters = survey.clusters
    seen = np.isin(clusters[list(tested)], clusters[list(trained)])
    return [index for index, found in zip(tested, seen, strict=True) if found]


def leak_figures(
    found: Sequence[int], tested: Sequence[int], predictions: Sequence[Prediction], catalog: Catalog
) -> dict[str, Any]:
    """What `metrics.json` says of leaks.

    Args:
        found: From `leaked`.
        tested: Indices of the test part.
        predictions: Of the same pictures, in that order.
        catalog: Names the classes.

    Returns:
        `leaked`, a number of pictures, and `accuracy_without_leaked`, None if none is left.
    """
    left = set(tested) - set(found)
    right = [
        prediction.best is not None and catalog.classes[prediction.best] == prediction.label
        for index, prediction in zip(tested, predictions, strict=True)
        if index in left
    ]
    accuracy = float(np.mean(right)) if right else None
    return {"leaked": len(found), "accuracy_without_leaked": accuracy}
