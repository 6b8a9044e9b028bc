"""Training on a share of the training images, as learning curves do."""

from __future__ import annotations

import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import SplitConfig
from bcd.data.splits.split import make_split
from tests.helpers.noise import made_up_catalog


@pytest.mark.parametrize("kind", ["grouped", "stratified", "blocked"])
def test_a_share_of_the_training_images_leaves_val_and_test_alone(kind: str) -> None:
    catalog = made_up_catalog((200, 200), groups=[f"{i // 10}" for i in range(400)])
    full, half = (
        make_split(catalog, with_defaults(SplitConfig, kind=kind, train_share=s))
        for s in (1.0, 0.5)
    )
    for subset in ("val", "test"):
        assert full.indices(subset) == half.indices(subset)
    kept, all_of_them = set(half.indices("train")), set(full.indices("train"))
    assert kept < all_of_them
    assert len(kept) / len(all_of_them) == pytest.approx(0.5, abs=0.15)
    assert {half.subsets[i] for i in all_of_them - kept} == {"excluded"}
    if kind != "stratified":
        whole = {full.clusters[i] for i in kept} & {full.clusters[i] for i in all_of_them - kept}
        assert not whole
