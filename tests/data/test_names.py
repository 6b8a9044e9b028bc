"""Names of files that are not UTF-8, which Linux allows, go through every table."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.load import load_catalog
from bcd.data.splits.split import make_split
from bcd.inference.predict import predict
from bcd.storage import written_path
from bcd.sweeps.finalize_sweep import finalize_sweep
from bcd.sweeps.trials import run_trial
from bcd.training.run import train
from tests.helpers.harness import CONF, SMALL, predict_config, train_config
from tests.helpers.noise import write_classes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")

ODD = os.fsdecode(b"\xff\xe9 \xc3\xa4.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_classes(tmp_path / os.fsdecode(b"root\xe4"), ("a", "b"), count=12)
    for name in ("a", "b"):
        for number in range(4):
            (root / name / f"{number:03d}.png").rename(root / name / f"{number}{ODD}")
    return root


def paths(file: Path) -> list[str]:
    with file.open(newline="", encoding="utf-8") as stream:
        return [row["path"] for row in csv.DictReader(stream)]


def test_a_name_is_written_alike_everywhere() -> None:
    assert written_path(ODD) == "\\xff\\xe9 ä.png"
    assert written_path("ä\\x") == "ä\\x"


def test_a_sweep_over_such_names_ends_in_a_leaderboard(root: Path, tmp_path: Path) -> None:
    words: Sequence[str] = [word for word in SMALL if not word.startswith("data=gen")]
    words = [word for word in words if not word.startswith("data.generate")]
    for number in (0, 1):
        every = [*words, f"seed={number}", "trainer.max_epochs=1"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", overrides=[f'data.root="{root}"', *every])
        assert run_trial(cfg, tmp_path / "sweep", str(number), every) > 0
    assert finalize_sweep(tmp_path / "sweep") == 0
    run = tmp_path / "sweep" / "0"
    known = set(paths(run / "split.csv"))
    assert f"a/0{written_path(ODD)}" in known
    assert set(paths(run / "predictions_val.csv")) <= known
    assert set(paths(run / "predictions.csv")) <= known
    assert json.loads((run / "run.json").read_text())["data"]["root"] == str(root)


def test_such_names_are_trained_on_predicted_and_split_again(root: Path, tmp_path: Path) -> None:
    words = [word for word in SMALL if not word.startswith(("data=gen", "data.generate"))]
    train(train_config(tmp_path / "run", *words, f'data.root="{root}"', "trainer.max_epochs=1"))
    ckpt = str(tmp_path / "run")
    predict(predict_config(tmp_path / "p", f'ckpt="{ckpt}"', f'input="{root / "a"}"', "device=cpu"))
    expected = sorted(written_path(str(path)) for path in (root / "a").iterdir())
    assert sorted(paths(tmp_path / "p" / "predictions.csv")) == expected
    catalog = load_catalog(with_defaults(DataConfig, root=str(root)))
    whole = tmp_path / "run" / "split.csv"
    lines = [line.replace("sha256", "other") for line in whole.read_text().splitlines()]
    (tmp_path / "by_path.csv").write_text("\n".join(lines))  # no hash to find a file by
    again = make_split(
        catalog, with_defaults(SplitConfig, kind="csv", file=str(tmp_path / "by_path.csv"))
    )
    assert (
        again.subsets
        == make_split(catalog, with_defaults(SplitConfig, kind="csv", file=str(whole))).subsets
    )
    assert "excluded" not in again.subsets
