"""Labels that contradict those of similar images are found, also where copies share the error."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.audit.labels import (
    FOLDS,
    check_labels,
    cross_validated,
    labels_section,
    write_label_issues,
)
from bcd.data.catalog import Catalog, ImageRecord
from bcd.data.quality.image_statistics import ImageStatistics
from bcd.data.quality.overlaps import Overlap
from bcd.data.quality.profile import DataProfile

CLASSES, COUNT, WIDTH = ("Benign", "Pre-B", "Pro-B"), 450, 12


def drawn(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of images around the centre of their class, and true classes."""
    random = np.random.default_rng(seed)
    truth = random.integers(len(CLASSES), size=COUNT)
    centres = 6.0 * np.eye(len(CLASSES), WIDTH)
    features = centres[truth] + random.standard_normal((COUNT, WIDTH))
    return features.astype(np.float32), truth.astype(np.int64)


def catalog_of(labels: NDArray[np.int64]) -> Catalog:
    records = [
        ImageRecord(f"{CLASSES[k]}/{i:03d}.png", int(k), f"{i:064d}", 8, 8)
        for i, k in enumerate(labels)
    ]
    return Catalog(Path("nowhere"), CLASSES, 0, tuple(records), ())


def unread() -> ImageStatistics:
    raise AssertionError("no statistic is needed")


def profile_of(*pairs: Overlap) -> DataProfile:
    return DataProfile(COUNT, pairs, unread)


@pytest.mark.parametrize("seed", range(2))
def test_swapped_labels_are_found_and_of_correct_ones_nearly_none(seed: int) -> None:
    features, truth = drawn(seed)
    clean = check_labels(catalog_of(truth), profile_of(), features)
    assert clean is not None and len(clean.issues) <= 2
    assert (clean.predicted == truth).mean() > 0.98
    labels = truth.copy()
    wrong = np.random.default_rng(seed + 50).choice(COUNT, 20, replace=False)
    labels[wrong] = (truth[wrong] + 1) % len(CLASSES)
    found = check_labels(catalog_of(labels), profile_of(), features)
    assert found is not None
    rows = {issue.row for issue in found.issues}
    assert len(rows & set(wrong.tolist())) >= 19 and len(rows) <= 22
    for issue, near in zip(found.issues, found.neighbours, strict=True):
        assert near.index != issue.row
        assert truth[near.index] == truth[issue.row]


def test_near_duplicates_with_the_same_wrong_label_do_not_confirm_each_other() -> None:
    features, truth = drawn(3)
    random = np.random.default_rng(4)
    # Thirty images of one odd kind, all with a label that the others of their class contradict.
    field = np.flatnonzero(truth == 1)[:30]
    odd = 9.0 * np.eye(WIDTH)[1] + 8.0 * np.eye(WIDTH)[-1]
    features[field] = odd + 0.05 * random.standard_normal((30, WIDTH))
    labels = truth.copy()
    labels[field] = 2
    pairs = [Overlap(int(a), int(b), "near", share=0.9) for a, b in pairwise(field)]
    together = check_labels(catalog_of(labels), profile_of(*pairs), features)
    apart = check_labels(catalog_of(labels), profile_of(), features)
    assert together is not None and apart is not None
    found, missed = (
        len({issue.row for issue in check.issues} & set(field.tolist()))
        for check in (together, apart)
    )
    assert found >= 28 and missed == 0
    # The nearest image of each is one of the others, and their overlap is known.
    places = [place for place, issue in enumerate(together.issues) if issue.row == field[0]]
    near, share = together.neighbours[places[0]], together.shares[places[0]]
    assert near.index in field
    assert share == (0.9 if near.index == field[1] else 0.0)


def test_images_of_one_group_are_in_one_fold() -> None:
    features, truth = drawn(5)
    groups = np.arange(COUNT) // 2
    truth[1::2] = truth[::2]
    features[1::2] = features[::2]
    found = cross_validated(features, truth, groups, len(CLASSES))
    assert found is not None
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    np.testing.assert_allclose(found[1::2], found[::2])  # the same models saw neither


def test_too_few_fields_are_not_checked() -> None:
    features, truth = drawn(6)
    few = np.flatnonzero(truth == 2)
    groups = np.arange(COUNT)
    groups[few] = few % (FOLDS - 1)
    assert cross_validated(features, truth, groups, len(CLASSES)) is None
    section = labels_section(catalog_of(truth), None, "")
    assert section.blocks == [
        f"Not checked: a class has images of fewer than {FOLDS} different fields."
    ]
    assert labels_section(catalog_of(truth), None, "No features.").blocks == ["No features."]


def test_a_row_is_written_for_each_label_to_check(tmp_path: Path) -> None:
    features, truth = drawn(7)
    labels = truth.copy()
    row, twin = np.flatnonzero(truth == 0)[:2]
    labels[row] = 1
    features[twin] = features[row]
    catalog = catalog_of(labels)
    check = check_labels(catalog, profile_of(Overlap(int(row), int(twin), "bytes")), features)
    assert check is not None
    write_label_issues(tmp_path / "label_issues.csv", catalog, check)
    with (tmp_path / "label_issues.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    (written,) = [one for one in rows if one["path"] == catalog.images[row].path]
    assert (written["class"], written["suggested_class"]) == ("Pre-B", "Benign")
    (issue,) = [issue for issue in check.issues if issue.row == row]
    assert float(written["self_confidence"]) == pytest.approx(issue.self_confidence, abs=1e-4)
    assert float(written["suggested_probability"]) > 0.7
    assert (written["nearest"], written["nearest_class"]) == (catalog.images[twin].path, "Benign")
    assert (written["similarity"], written["overlap"]) == ("1.0000", "1.0000")
