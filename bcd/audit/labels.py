"""Labels to check: images whose class contradicts that of similar images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.audit.probes import linear_probe, thinned
from bcd.data.catalog import Catalog
from bcd.data.quality.overlaps import OverlapShares
from bcd.data.quality.profile import DataProfile
from bcd.data.reading import read_image
from bcd.evaluation.examples import confused_pairs
from bcd.evaluation.label_issues import LabelIssue, find_label_issues
from bcd.evaluation.neighbours import Neighbour, nearest
from bcd.reporting.document import Block, Section
from bcd.reporting.gallery import Card, Gallery, Picture
from bcd.storage import write_csv, written_path

Floats = NDArray[np.floating[Any]]

FOLDS = 5
LABEL_ISSUES = "label_issues.csv"
_SHOWN = 24  # images in the page, at most

_COLUMNS = (
    "path", "class", "suggested_class", "self_confidence", "suggested_probability", "nearest",
    "nearest_class", "similarity", "overlap",
)  # fmt: skip


@dataclass(frozen=True)
class LabelCheck:
    """What cross-validated probabilities say about the labels of a catalog.

    Attributes:
        predicted: The most probable class of each image, out of fold, (n,).
        issues: Labels to check, the most suspicious first; `row` is the index in the catalog.
        neighbours: The most similar other image of each.
        shares: Shared area of each image and its neighbour; 0 without an overlap.
    """

    predicted: NDArray[np.int64]
    issues: Sequence[LabelIssue]
    neighbours: Sequence[Neighbour]
    shares: Sequence[float]


def check_labels(catalog: Catalog, profile: DataProfile, features: Floats) -> LabelCheck | None:
    """Finds labels to check by confident learning on features of the frozen network.

    Probabilities come from logistic regressions, each fitted on four fifths of the images and
    applied to the rest. Images that overlap are in one fold, because a near duplicate with the
    same wrong label would confirm it.

    Args:
        catalog: The images.
        profile: Of the same.
        features: Of the same, (n, channels).

    Returns:
        The findings; None if a class has images of fewer than `FOLDS` fields.
    """
    labels = np.asarray(catalog.labels, np.int64)
    probabilities = cross_validated(features, labels, profile.components, len(catalog.classes))
    if probabilities is None:
        return None
    issues = find_label_issues(probabilities, labels)
    rows = [issue.row for issue in issues]
    found = nearest(features[rows], features, range(len(labels)), own=rows) if rows else []
    overlaps = OverlapShares(profile.count, profile.overlaps)
    shares = [overlaps.share(row, near.index) for row, near in zip(rows, found, strict=True)]
    return LabelCheck(probabilities.argmax(axis=1), issues, found, shares)


def cross_validated(
    features: Floats, labels: NDArray[np.int64], groups: NDArray[np.int64], classes: int
) -> NDArray[np.float64] | None:
    """Probabilities of classes from logistic regressions that were not fitted on the image.

    Args:
        features: (n, d).
        labels: (n,).
        groups: Images with the same number are in the same fold, (n,).
        classes: Number of classes.

    Returns:
        (n, classes); None if a class has images of fewer than `FOLDS` groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    present = np.unique(labels)
    if len(present) < 2 or any(len(np.unique(groups[labels == k])) < FOLDS for k in present):
        return None
    found = np.zeros((len(labels), classes))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for fitted, left in folds.split(features, labels, groups):
        few = thinned(fitted)
        model = linear_probe().fit(features[few], labels[few])
        found[np.ix_(left, model.classes_)] = model.predict_proba(features[left])
    return found


def write_label_issues(file: Path, catalog: Catalog, check: LabelCheck) -> None:
    """Writes a row for each label to check, the most suspicious first."""
    images, classes = catalog.images, catalog.classes
    rows = []
    for issue, near, share in zip(check.issues, check.neighbours, check.shares, strict=True):
        other = images[near.index]
        rows.append([
            written_path(images[issue.row].path), classes[issue.label], classes[issue.suggested],
            f"{issue.self_confidence:.4f}", f"{issue.suggested_probability:.4f}",
            written_path(other.path), classes[other.label], f"{near.similarity:.4f}",
            f"{share:.4f}" if share else "",
        ])  # fmt: skip
    write_csv(file, _COLUMNS, rows)


def labels_section(catalog: Catalog, check: LabelCheck | None, reason: str) -> Section:
    """The labels to check, with the images.

    Args:
        catalog: The images.
        check: What was found; None if the labels were not checked.
        reason: Why there are no features to check them by, as a sentence; empty if there are.
    """
    title = "Labels to check"
    if check is None:
        few = f"Not checked: a class has images of fewer than {FOLDS} different fields."
        return Section(title, [reason or few])
    count, images = len(check.issues), len(catalog.images)
    how = (
        "Found by confident learning on cross-validated probabilities of a logistic regression on "
        "the frozen network's features. A model can be wrong too, and the method cannot see an "
        "error that all images of a kind share."
    )
    if not count:
        return Section(title, [f"None of {images} images. {how}"])
    pairs = confused_pairs(
        catalog.labels, _suggested(catalog, check), catalog.classes, words="labels look like"
    )
    shown = "" if count <= _SHOWN else f" The {_SHOWN} most suspicious are shown."
    blocks: list[Block] = [
        f"{count} of {images} images look like another class than their label's: "
        f"{'; '.join(pairs)}. "
        f"All are in {LABEL_ISSUES}.{shown} {how}",
        Gallery([_card(catalog, check, place) for place in range(min(count, _SHOWN))]),
    ]
    return Section(title, blocks)


def _suggested(catalog: Catalog, check: LabelCheck) -> list[int]:
    """Class of each image, the suggested one where the label is to be checked."""
    found = list(catalog.labels)
    for issue in check.issues:
        found[issue.row] = issue.suggested
    return found


def _card(catalog: Catalog, check: LabelCheck, place: int) -> Card:
    issue, near, share = check.issues[place], check.neighbours[place], check.shares[place]
    image, other = catalog.images[issue.row], catalog.images[near.index]
    label, suggested = catalog.classes[issue.label], catalog.classes[issue.suggested]
    text = f"Most similar image: {catalog.classes[other.label]}"
    overlap = f"overlaps by {100 * share:.0f} %" if share else "no overlap found"
    pictures = [
        Picture(read_image(catalog.root / image.path), f"Labelled {label}"),
        Picture(read_image(catalog.root / other.path), text),
    ]
    lines = [
        f"Labelled {label}, looks like {suggested}",
        f"{label} {100 * issue.self_confidence:.1f} %, "
        f"{suggested} {100 * issue.suggested_probability:.1f} %",
        f"{text}, similarity {near.similarity:.2f}, {overlap}",
        written_path(image.path),
    ]
    return Card(pictures, lines)
