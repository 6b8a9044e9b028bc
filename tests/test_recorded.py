"""Pictures that a checkpoint records are found again by content and class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from noise import made_up_catalog, write_classes

from bcd.config import DataConfig
from bcd.data.catalog import load_catalog
from bcd.data.split import Split, recorded_indices
from bcd.errors import BcdError


def test_the_copy_of_the_recorded_class_is_taken() -> None:
    catalog = made_up_catalog([3, 3])
    pictures = list(catalog.pictures)
    pictures[4] = replace(pictures[4], sha256=pictures[1].sha256)  # one file under two classes
    catalog = replace(catalog, pictures=tuple(pictures))
    for tested, other in ((4, 1), (1, 4)):
        subsets = ["train"] * 6
        subsets[tested] = "test"
        recorded = Split(tuple(subsets)).hashes(catalog)
        assert recorded_indices(catalog, recorded["test"]) == [tested]
        assert other in recorded_indices(catalog, recorded["train"])


def test_a_picture_that_changed_its_class_is_still_found() -> None:
    catalog = made_up_catalog([3, 3])
    recorded = Split(("test",) * 6).hashes(catalog)["test"]
    relabelled = tuple(replace(p, label=1 - p.label) for p in catalog.pictures)
    assert recorded_indices(replace(catalog, pictures=relabelled), recorded) == list(range(6))


def test_a_csv_cannot_name_a_file_twice_in_other_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_classes(tmp_path / "root", count=2)
    file = next(root.rglob("*.png"))
    rows = [f"{file.relative_to(root)},a,train", f"{file},b,test"]
    (root / "list.csv").write_text("\n".join(["path,class,split", *rows]) + "\n")
    monkeypatch.chdir(root)
    with pytest.raises(BcdError, match="line 3 names the file of line 2"):
        load_catalog(DataConfig(root="list.csv"))
