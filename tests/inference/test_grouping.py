"""What is said where images have no group, and what guarantees then apply to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bcd.data.catalog import Catalog
from bcd.errors import BcdError
from bcd.evaluation.answers import Answers
from bcd.evaluation.recalibration import check_labels
from bcd.inference.grouping import ungrouped_note
from bcd.inference.recalibrate import Labelled, check_consistent
from tests.helpers.noise import made_up_catalog


def labelled(groups: list[str] | None, ungrouped: int) -> Labelled:
    catalog, labels = made_up_catalog([2, 2]), np.array([0, 0, 1, 1])
    answers = Answers(np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32), labels)
    return Labelled("north", catalog, answers, groups, ungrouped)


def test_the_note_counts_images_without_a_group() -> None:
    assert ungrouped_note(0, 5) == ""
    assert ungrouped_note(5, 5).startswith("no image has a group")
    assert ungrouped_note(2, 5).startswith("2 of 5 images have no group")
    assert "counted as independent" in ungrouped_note(2, 5)


def test_a_guarantee_of_new_groups_needs_groups() -> None:
    alone, named = labelled(None, 4).scope(), labelled(list("aabb"), 0).scope()
    assert "are independent" in alone.population
    assert named.population.startswith("an image of a new group of north")
    mixed = labelled(list("aabc"), 2).scope()
    assert "2 of 4 images, which have no group, are independent" in mixed.population
    overlapping = labelled(list("aabb"), 4).scope()
    assert "images that do not overlap are independent" in overlapping.population
    assert "group" not in overlapping.population
    assert (named.by_overlaps, overlapping.by_overlaps) == (False, True)
    kinds = np.array([True, True, False, False])
    with pytest.raises(BcdError, match="images are labelled, those that overlap counted once"):
        check_labels(kinds, overlapping, 0.8, 0.9)


def contradictory() -> Catalog:
    catalog = made_up_catalog([2, 2])
    first, *others, last = catalog.images
    return replace(catalog, images=(first, *others, replace(last, sha256=first.sha256)))


def test_one_image_with_two_classes_is_refused() -> None:
    catalog = contradictory()
    first, last = catalog.images[0].path, catalog.images[-1].path
    with pytest.raises(BcdError, match=f"{first} and {last} are the same image"):
        check_consistent("labels.csv", catalog)
    same = replace(catalog.images[1], sha256=catalog.images[0].sha256)
    check_consistent("labels.csv", replace(catalog, images=(catalog.images[0], same)))
