"""Answers to look at, confused pairs in words, and nearest images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.data.quality.overlaps import Overlap, OverlapShares
from bcd.evaluation.examples import DOUBTFUL, SUREST, WRONG, choose_examples, confused_pairs
from bcd.evaluation.neighbours import NearestSearch, nearest

CLASSES = ("Benign", "Early Pre-B", "Pre-B")


def drawn(seed: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(3, 0.5), count)
    labels = probabilities.argmax(axis=1)
    wrong = random.random(count) < 0.3
    labels[wrong] = (labels[wrong] + 1 + random.integers(2, size=wrong.sum())) % 3
    return probabilities, labels.astype(np.int64)


def test_errors_come_most_confident_first_and_right_answers_only_in_full() -> None:
    probabilities, labels = drawn(0, 300)
    best, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
    brief = choose_examples(probabilities, labels, full=False)
    errors = np.flatnonzero(best != labels)
    assert len(brief.wrong) == WRONG < len(errors)
    assert set(brief.wrong) <= set(errors.tolist())
    left = set(errors.tolist()) - set(brief.wrong)
    assert min(top[list(brief.wrong)]) >= max(top[list(left)])
    assert list(top[list(brief.wrong)]) == sorted(top[list(brief.wrong)], reverse=True)
    assert (brief.doubtful, brief.surest) == ((), ())
    full = choose_examples(probabilities, labels, full=True)
    assert full.wrong == brief.wrong
    right = set(range(300)) - set(errors.tolist())
    assert len(full.doubtful) == DOUBTFUL and set(full.doubtful) <= right
    ordered = np.sort(probabilities, axis=1)
    margin = ordered[:, 2] - ordered[:, 1]
    others = right - set(full.doubtful)
    assert max(margin[list(full.doubtful)]) <= min(margin[list(others)])
    assert [int(labels[row]) for row in full.surest] == sorted([*range(3)] * SUREST)
    for k in range(3):
        own = [row for row in full.surest if labels[row] == k]
        assert max(top[row] for row in right if labels[row] == k) == top[own[0]]
    assert len(full.rows) == len(set(full.rows))


def test_of_few_answers_none_is_shown_twice() -> None:
    probabilities, labels = np.array([[0.6, 0.4], [0.3, 0.7]]), np.array([0, 1])
    found = choose_examples(probabilities, labels, full=True)
    assert (found.wrong, found.doubtful, found.surest) == ((), (0, 1), ())


def test_confused_pairs_are_counted_in_words() -> None:
    labels = [1] * 120 + [0] * 40 + [2] * 3
    predicted = [1] * 114 + [2] * 5 + [0] + [0] * 38 + [1] * 2 + [2] * 3
    assert confused_pairs(labels, predicted, CLASSES) == [
        "Early Pre-B called Pre-B: 5 of 120 (4.2 %)",
        "Benign called Early Pre-B: 2 of 40 (5.0 %)",
        "Early Pre-B called Benign: 1 of 120 (0.8 %)",
    ]
    assert len(confused_pairs(labels, predicted, CLASSES, most=1)) == 1
    assert confused_pairs(labels, labels, CLASSES) == []


def test_the_nearest_image_is_found_among_features_with_a_common_part() -> None:
    random = np.random.default_rng(1)
    candidates = random.random((50, 16)).astype(np.float32) + 100.0  # any two are nearly parallel
    order = random.permutation(50)[:20]
    centre = candidates.mean(axis=0)
    queries = centre + 3.0 * (candidates[order] - centre)  # the same direction, another length
    queries += 0.02 * random.standard_normal(queries.shape)
    indices = [1000 + i for i in range(50)]
    found = nearest(queries, candidates, indices)
    assert [neighbour.index for neighbour in found] == [1000 + i for i in order]
    assert all(0.99 < neighbour.similarity <= 1.0 + 1e-6 for neighbour in found)


def test_a_search_in_parts_finds_what_a_search_of_all_finds() -> None:
    random = np.random.default_rng(2)
    candidates, queries = random.random((90, 8)) + 5.0, random.random((7, 8)) + 5.0
    centre = candidates[::3].mean(axis=0)
    search = NearestSearch(queries)
    for part in range(3):
        search.add(candidates[part::3], range(part, 90, 3))
    assert search.found == nearest(queries, candidates, range(90), centre=centre)


def test_an_image_is_not_its_own_neighbour() -> None:
    features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    found = nearest(features, features, range(4), own=range(4))
    assert [neighbour.index for neighbour in found] == [1, 0, 3, 2]


def test_overlaps_are_looked_up_through_copies() -> None:
    # 1 and 2 are copies of 0, which shares 60 % with 3; 4 shares 30 % with 3.
    pairs = [
        Overlap(0, 1, "bytes"),
        Overlap(0, 2, "pixels"),
        Overlap(0, 3, "overlap", share=0.6),
        Overlap(3, 4, "overlap", share=0.3),
    ]
    shares = OverlapShares(6, pairs)
    assert shares.share(1, 2) == shares.share(2, 0) == 1.0
    assert shares.share(3, 2) == shares.share(1, 3) == pytest.approx(0.6)
    assert shares.share(0, 4) == shares.share(5, 0) == 0.0
    assert shares.largest(3, [5, 4, 2]) == (2, 0.6)
    assert shares.largest(5, [0, 3]) is None
    assert shares.largest(5, []) is None
