"""Labels that were swapped are found, and few others are suspected."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.evaluation.label_issues import class_thresholds, find_label_issues

CLASSES, COUNT = 4, 1200


def simulated(seed: int, distance: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Exact probabilities of classes from Gaussian features, and true labels.

    The centres of the classes are `distance` standard deviations from the origin, on the axes.
    """
    random = np.random.default_rng(seed)
    truth = random.integers(CLASSES, size=COUNT)
    centres = distance * np.eye(CLASSES)
    features = centres[truth] + random.standard_normal((COUNT, CLASSES))
    logits = features @ centres.T
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True), truth.astype(np.int64)


def swapped(
    truth: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], set[int]]:
    """Labels of which a share is another class, and the rows with a wrong one."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(truth), round(share * len(truth)), replace=False)
    labels = truth.copy()
    labels[rows] = (truth[rows] + random.integers(1, CLASSES, size=len(rows))) % CLASSES
    return labels, set(rows.tolist())


@pytest.mark.parametrize("share", [0.02, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_swapped_labels_are_found_with_few_false_alarms(share: float, seed: int) -> None:
    probabilities, truth = simulated(seed, distance=4.0)
    labels, wrong = swapped(truth, share, seed + 100)
    found = find_label_issues(probabilities, labels)
    rows = [issue.row for issue in found]
    hits = wrong & set(rows)
    assert len(hits) / len(wrong) >= 0.9
    assert len(hits) / len(rows) >= 0.9
    assert all(issue.suggested == truth[issue.row] for issue in found if issue.row in wrong)
    # The most suspicious come first, and these are nearly all wrong.
    assert [issue.margin for issue in found] == sorted(issue.margin for issue in found)
    first = rows[: len(wrong) // 2]
    assert len(wrong & set(first)) >= 0.95 * len(first)


@pytest.mark.parametrize("seed", range(3))
def test_of_correct_labels_nearly_none_is_suspected(seed: int) -> None:
    probabilities, truth = simulated(seed, distance=4.0)
    errors = int((probabilities.argmax(axis=1) != truth).sum())
    found = find_label_issues(probabilities, truth)
    assert len(found) <= errors <= 0.01 * COUNT
    # If classes are hard to tell apart, confidence keeps the list shorter than the errors.
    probabilities, truth = simulated(seed, distance=1.5)
    errors = int((probabilities.argmax(axis=1) != truth).sum())
    assert errors > 0.1 * COUNT
    assert len(find_label_issues(probabilities, truth)) < 0.8 * errors


def test_an_issue_names_the_class_that_the_image_shows() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.95, 0.05, 0.0]])
    labels = np.array([0, 0, 1, 1])
    thresholds = class_thresholds(probabilities, labels)
    np.testing.assert_allclose(thresholds, [0.85, 0.375, np.inf])  # no image of the third class
    (issue,) = find_label_issues(probabilities, labels)
    assert (issue.row, issue.label, issue.suggested) == (3, 1, 0)
    assert (issue.self_confidence, issue.suggested_probability) == (0.05, 0.95)
    # 0.80 is below the mean of the class: too uncertain to contradict a label.
    labels = np.array([0, 1, 1, 0])
    assert find_label_issues(probabilities, labels) == []


def test_a_class_is_suggested_only_if_it_is_more_probable_than_the_label() -> None:
    # The second class is rarely probable, so its threshold, 0.25, is low.
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2], [0.7, 0.3]])
    labels = np.array([0, 0, 1, 1])
    assert class_thresholds(probabilities, labels)[1] == pytest.approx(0.25)
    assert all(issue.row != 1 for issue in find_label_issues(probabilities, labels))
