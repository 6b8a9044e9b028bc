"""Sentences of reports and audits match the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bcd.audit.checks import NOT_ESTABLISHED, Check, check_split
from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.splits.split import make_split, other_split
from bcd.errors import BcdError
from bcd.reporting.guarantees import val_reuse_note
from bcd.reporting.results import rejected_line
from bcd.training.provenance import how_chosen, how_split, val_chose_epoch
from tests.data.splits.test_slide_groups import made_up_statistics, profiled
from tests.helpers.harness import train_config
from tests.helpers.noise import made_up_catalog

LAST = "that of the last epoch; val did not choose it"


@pytest.mark.parametrize(
    ("overrides", "reported", "by_val"),
    [
        ("experiment=paper", "was chosen on val, by val/loss (min).", True),
        ("experiment=finetune", LAST, False),
        ("experiment=robust", LAST, False),
        ("experiment=robust callbacks=[default,ema,early_stopping]", "Val influenced", True),
        ("callbacks.best.monitor=train/loss", "chosen by train/loss (min), not on val", False),
        ("callbacks.best.monitor=null", LAST, False),
        ("callbacks.best=null callbacks.last=null", "No checkpoint was kept", False),
        ("trainer.max_epochs=1", "only one epoch, so none was chosen", False),
        ("experiment=paper head=svm", "fitted once, so there was no epoch", False),
        ("experiment=best_frozen", "fitted once, so there was no epoch", False),
        ("trainer.max_epochs=5 trainer.check_val_every_n_epoch=3", "only validation", False),
        ("head=svm callbacks.best.monitor=null", "fitted once", False),
        ("trainer.max_epochs=1 +trainer.val_check_interval=0.5", "was chosen on val", True),
    ],
)
def test_the_selection_of_the_checkpoint_is_stated(
    overrides: str, reported: str, by_val: bool, tmp_path: Path
) -> None:
    cfg = train_config(tmp_path, *overrides.split())
    assert reported in how_chosen(cfg)
    assert ("chosen on val" in how_chosen(cfg)) <= by_val
    assert val_chose_epoch(cfg) == by_val
    assert ("The epoch and the temperature" in val_reuse_note(by_val)) == by_val


def patients(parts: int) -> Catalog:
    """Two classes of 12, whose CSV names patients; each is in that many of train, val and test."""
    catalog = made_up_catalog([12, 12])
    names = ("train", "val", "test")
    images = []
    for i, image in enumerate(catalog.images):
        group = f"p{image.label}-{i % 3 if parts == 1 else i // 3 % 4}"
        images.append(replace(image, subset=names[i % 3], group=group))
    return replace(catalog, images=tuple(images))


def separation(catalog: Catalog, cfg: SplitConfig) -> Check:
    profile = profiled(made_up_statistics(np.zeros(len(catalog.images), np.int64), 1.0, 0), ())
    checks = check_split(
        catalog, make_split(catalog, cfg), cfg, profile, with_defaults(DataConfig, root=".")
    )
    return next(check for check in checks if check.name == "separation")


def test_a_csv_that_separates_patients_passes() -> None:
    check = separation(patients(1), with_defaults(SplitConfig, kind="csv"))
    assert check.status == "PASS"
    assert "6 groups (the CSV's column 'group') are each in a single set" in check.finding


@pytest.mark.parametrize("kind", ["csv", "stratified"])
def test_patients_in_several_sets_are_counted(kind: str) -> None:
    catalog, cfg = patients(3), with_defaults(SplitConfig, kind=kind)
    split = make_split(catalog, cfg)
    parts: dict[str, set[str]] = {}
    for image, subset in zip(catalog.images, split.subsets, strict=True):
        parts.setdefault(image.group, set()).add(subset)
    count = sum(len(found) > 1 for found in parts.values())
    check = separation(catalog, cfg)
    assert count > 0
    assert check.status == "WARN"
    assert check.finding.startswith(NOT_ESTABLISHED)
    assert f"{count} groups are in more than one of train, val, test" in check.finding


def test_a_csv_without_patients_states_that_none_are_known() -> None:
    catalog = patients(1)
    images = tuple(replace(image, group="") for image in catalog.images)
    check = separation(replace(catalog, images=images), with_defaults(SplitConfig, kind="csv"))
    assert check.status == "WARN"
    assert (
        "no groups are known, so images of one slide may be in both train and test" in check.finding
    )


@pytest.mark.parametrize(
    ("overrides", "reported", "seeded"),
    [
        ("split=stratified split.seed=7", "split=stratified, split.seed 7", True),
        ("split=grouped split.groups=auto", "split=grouped split.groups=auto, split.seed 0", True),
        ("split=kfold split.fold=1", "split=kfold, split.fold 1 of 5 folds, split.seed 0", True),
        ("split=blocked split.seed=7", "split=blocked, split.seed 7", True),
        ("split=blocked split.folds=5", "split=blocked, split.fold 0 of 5 folds", False),
        ("split=csv split.file=own.csv", "split=csv, by own.csv", False),
        ("split=csv", "split=csv, by the column split of data.root", False),
    ],
)
def test_a_split_is_described_by_the_keys_that_determine_it(
    overrides: str, reported: str, seeded: bool, tmp_path: Path
) -> None:
    cfg = train_config(tmp_path, *overrides.split()).split
    assert how_split(cfg) == reported
    assert ("split.seed" in other_split(cfg)) == seeded
    idle = [f"split.{key}" for key in cfg.unread() if key != "file"]
    assert not [key for key in idle if key in other_split(cfg).replace(",", "").split()]


def test_rejected_files_are_counted_in_words() -> None:
    assert rejected_line(1) == "rejected: 1 file, listed in run.json"
    assert rejected_line(2) == "rejected: 2 files, listed in run.json"


def test_changing_the_seed_is_not_suggested_for_a_csv_without_a_class() -> None:
    catalog = patients(1)
    images = tuple(replace(p, subset="train" if p.label else p.subset) for p in catalog.images)
    with pytest.raises(BcdError, match="has no image of class 'class1': give other values in"):
        make_split(replace(catalog, images=images), with_defaults(SplitConfig, kind="csv"))
