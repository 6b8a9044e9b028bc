"""The gate: is a new release worse than an earlier one on images that both judged out of fold?"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.errors import BcdError
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.paired_tests import Difference, paired_interval, paired_p_value
from bcd.evaluation.results import Result
from bcd.evaluation.unsafe import is_unsafe, unsafe_differences
from bcd.release.answers import Images
from bcd.storage import typed_path

PREDICTIONS, FOLDS_TABLE = "predictions.csv", "folds.csv"
_LEVEL = 0.95


@dataclass(frozen=True)
class Gate:
    """The comparison of a new release with an earlier one.

    Attributes:
        passed: False if the new release is worse by more than chance.
        reasons: What is worse, one line each.
        old: Folder of the earlier release.
        n: Number of images that both judged.
        n_new: Number of images that only the new release has.
        accuracy: Accuracy of the earlier and of the new release on the images of both.
        p_value: Of the hypothesis that both are equally accurate.
        differences: New minus old, by metric: value, low, high.
    """

    passed: bool
    reasons: list[str]
    old: str
    n: int
    n_new: int
    accuracy: tuple[float, float]
    p_value: float
    differences: dict[str, Difference]

    def to_plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        plain = asdict(self)
        return plain | {"differences": {k: list(v) for k, v in self.differences.items()}}


def check_old(folder: str) -> None:
    """Checks that a folder is that of a release, before anything is trained.

    Raises:
        BcdError: It is not.
    """
    _read_old(typed_path(folder))


def compare_releases(folder: str, images: Images, result: Result) -> Gate:
    """Compares out-of-fold answers of an earlier release with those of the new one.

    The new release fails if its accuracy is lower by more than chance, by interval and p-value, or
    if the interval of the difference in unsafe answers about malignant or benign images is above 0.

    Args:
        folder: Of the earlier release.
        images: Of the new release.
        result: Its out-of-fold result, in the order of `images.indices`.

    Raises:
        BcdError: The folder is not that of a release, or no image is in both.
    """
    old, classes = _read_old(typed_path(folder)), images.catalog.classes
    hashes = [images.catalog.images[i].sha256 for i in images.indices]
    rows = [place for place, sha256 in enumerate(hashes) if sha256 in old]
    if not rows:
        raise BcdError(f"from={folder}: no image of that release is among these")
    unknown = {old[hashes[r]]["prediction"] for r in rows} - {*classes, ""}
    if unknown:
        raise BcdError(f"from={folder}: has other classes, such as '{unknown.pop()}'")
    before = [old[hashes[r]] for r in rows]
    labels = result.labels[rows]
    of_old = np.array([[*classes].index(row["prediction"]) for row in before])
    of_new = result.probabilities[rows].argmax(axis=1)
    named = fill_group_names([images.clusters[r] for r in rows])
    differences = {
        "accuracy": paired_interval(labels, of_new, of_old, len(classes), named)["accuracy"]
    }
    p_value = paired_p_value(of_old == labels, of_new == labels, named)
    if images.catalog.benign is not None and result.unsafe is not None:
        malignant = np.asarray(labels != images.catalog.benign)
        unsafe = _unsafe(before, malignant)
        differences |= unsafe_differences(malignant, unsafe, result.unsafe[rows], named)
    reasons = _worse(differences, p_value)
    share = (float((of_old == labels).mean()), float((of_new == labels).mean()))
    more = len(hashes) - len(rows)
    return Gate(not reasons, reasons, folder, len(rows), more, share, p_value, differences)


def _worse(differences: dict[str, Difference], p_value: float) -> list[str]:
    reasons = []
    for name, (value, low, high) in differences.items():
        shown = f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        if name == "accuracy" and high < 0 and p_value < 1 - _LEVEL:
            reasons.append(f"accuracy {shown}, p {p_value:.4f}")
        elif name != "accuracy" and low > 0:
            reasons.append(f"{name.replace('_', ', of ')} images {shown}")
    return reasons


def _unsafe(rows: list[dict[str, str]], malignant: NDArray[np.bool_]) -> NDArray[np.bool_]:
    called = np.array([row["malignant"] == "true" for row in rows])
    refer = np.array([row["refer"] == "true" for row in rows])
    return is_unsafe(malignant, called, refer)


def _read_old(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of `predictions.csv` by sha256.

    Raises:
        BcdError: The folder is not that of a finished release.
    """
    try:
        predictions = _rows(folder / PREDICTIONS)
        hashes = {row["path"]: row["sha256"] for row in _rows(folder / FOLDS_TABLE)}
        return {hashes[row["path"]]: row for row in predictions}
    except (OSError, KeyError) as error:
        raise BcdError(
            f"from={folder}: is not the folder of a finished release, which has {PREDICTIONS} and "
            f"{FOLDS_TABLE}"
        ) from error


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
