"""A sweep that was extended: the best of its trials, and which were tested."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench.seeds
from bcd.errors import BcdError
from bcd.run_folder import find_checkpoint
from bcd.sweeps.finalize_sweep import finalize_sweep
from bcd.sweeps.trials import UNFINISHED
from tests.sweeps.test_sweeps import record, trial

BEST = "checkpoints/best.ckpt"


def leave_test(folder: Path, accuracy: float) -> None:
    """Writes the files of a tested trial."""
    scores = {"accuracy": accuracy, "precision": 0.9, "recall": 0.9, "f1": 0.9, "loss": 0.1}
    scores["ece"] = 0.0
    (folder / "metrics.json").write_text(json.dumps({"test": scores}))
    (folder / "audit.json").write_text("{}")
    (folder / "predictions.csv").write_text("path,label,prediction\n0.png,a,a\n1.png,a,b\n")


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """Trial 0 was the best and was tested; then 1 and 2 were better and tested; 3 is newest."""
    made = [
        trial("0", "a=1 seed=0", 0, 0.8, best=BEST), trial("1", "a=2 seed=0", 0, 0.9, best=BEST),
        trial("2", "a=2 seed=1", 1, 0.92, best=BEST), trial("3", "a=3 seed=0", 0, 0.7, best=BEST),
    ]  # fmt: skip
    sweep = tmp_path / "multirun"
    for age, one in enumerate(made):
        record(sweep, one)
        file = sweep / one.name / BEST
        file.parent.mkdir()
        file.write_text(one.name)
        os.utime(file, (1000 + age, 1000 + age))
    for name in "012":
        leave_test(sweep / name, 0.9)
    return sweep


def test_the_sweep_folder_and_the_printed_command_refer_to_the_winner(
    extended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finalize_sweep(extended) == 0
    output = capsys.readouterr().err
    assert f"ckpt={extended / '2' / BEST}" in output
    # The newest below the folder of sweeps is a loser too.
    for given in (extended, extended.parent, extended / "2"):
        assert find_checkpoint(str(given)) == extended / "2" / BEST
    assert find_checkpoint(str(extended / "0")) == extended / "0" / BEST
    assert "test set was used for 2 configurations, because the sweep was extended: also" in output
    page = (extended / "leaderboard.html").read_text()
    assert "used for 2 configurations" in page and "only the best" not in page


def test_a_sweep_that_tested_only_its_winner_states_it(
    extended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (extended / "0" / "metrics.json").unlink()
    assert finalize_sweep(extended) == 0
    assert "used for the best configuration only, after the ranking" in capsys.readouterr().err


def test_trials_finished_after_the_test_are_reported(
    extended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (extended / "0" / "metrics.json").unlink()
    finalize_sweep(extended)
    record(extended, trial("4", "a=4 seed=0", 0, 0.6, best=BEST))
    for _ in range(2):  # it is remembered
        capsys.readouterr()
        finalize_sweep(extended)
        output = capsys.readouterr().err
        assert "after the ranking" not in output
        assert "the sweep was extended: 1 of its trials finished after that" in output
    assert "finished after that" in (extended / "leaderboard.html").read_text()


def test_an_outdated_ranking_gives_no_checkpoint(extended: Path) -> None:
    with pytest.raises(BcdError, match="is a sweep that was not ranked yet: rank it"):
        find_checkpoint(str(extended))
    finalize_sweep(extended)
    record(extended, trial("4", "a=4 seed=0", 0, 0.0, status=UNFINISHED))
    with pytest.raises(BcdError, match="has changed since it was ranked"):
        find_checkpoint(str(extended))


def test_the_table_over_seeds_includes_only_the_winner(
    extended: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finalize_sweep(extended)
    read: list[str] = []

    def figures(run: Path) -> dict[str, Any]:
        read.append(run.name)
        return {**dict.fromkeys(bench.seeds.FIGURES, 0.5), "n": 2, "selective_accuracy": {"1": 1.0}}

    monkeypatch.setattr(bench.seeds, "_figures", figures)
    monkeypatch.setattr(bench.seeds, "read_seeds", lambda run: bench.seeds.Seeds(0, 0, 0))
    monkeypatch.setattr(sys, "argv", ["seeds", str(extended)])
    bench.seeds.main()
    assert read == ["1", "2"]


def test_the_table_over_folds_takes_the_winner_of_each_sweep(
    extended: Path, tmp_path: Path
) -> None:
    finalize_sweep(extended)
    for fold in ("0", "1"):
        (tmp_path / "nested").mkdir(exist_ok=True)
        (tmp_path / "nested" / fold).symlink_to(extended)
    found = bench.seeds.find_runs(tmp_path / "nested")
    assert [str(run.relative_to(tmp_path)) for run in found] == [
        "nested/0/1", "nested/0/2", "nested/1/1", "nested/1/2"
    ]  # fmt: skip


def test_the_table_over_seeds_takes_runs_without_a_benign_class(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text('{"checks": []}')
    figures = {"accuracy": 0.5, "prediction_sets": {"coverage": 0.9}}
    (tmp_path / "metrics.json").write_text(json.dumps({"test": figures}))
    read = bench.seeds._figures(tmp_path)
    assert (read["accuracy"], read["coverage"]) == (0.5, 0.9)
    assert all(np.isnan(read[f"{name} by threshold"]) for name in bench.seeds.AT_THRESHOLD)
