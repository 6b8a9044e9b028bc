"""Images that a checkpoint records are found again by content and class."""

from __future__ import annotations

from dataclasses import replace

from bcd.data.splits.split import Split, recorded_indices
from tests.helpers.noise import made_up_catalog


def test_the_copy_of_the_recorded_class_is_taken() -> None:
    catalog = made_up_catalog([3, 3])
    images = list(catalog.images)
    images[4] = replace(images[4], sha256=images[1].sha256)  # one file under two classes
    catalog = replace(catalog, images=tuple(images))
    for tested, other in ((4, 1), (1, 4)):
        subsets = ["train"] * 6
        subsets[tested] = "test"
        recorded = Split(tuple(subsets)).hashes(catalog)
        assert recorded_indices(catalog, recorded["test"]) == [tested]
        assert other in recorded_indices(catalog, recorded["train"])


def test_an_image_that_changed_its_class_is_still_found() -> None:
    catalog = made_up_catalog([3, 3])
    recorded = Split(("test",) * 6).hashes(catalog)["test"]
    relabelled = tuple(replace(p, label=1 - p.label) for p in catalog.images)
    assert recorded_indices(replace(catalog, images=relabelled), recorded) == list(range(6))
