"""Columns of unsafe answers in a leaderboard."""

from __future__ import annotations

from pathlib import Path

from bcd.sweeps.configurations import group_trials
from bcd.sweeps.leaderboard import short_table
from bcd.sweeps.ranking import rank
from bcd.sweeps.trials import read_trials
from tests.sweeps.test_sweeps import record, trial


def test_a_leaderboard_without_a_benign_class_has_no_unsafe_answers(tmp_path: Path) -> None:
    shares = {"unsafe_malignant": 0.03, "unsafe_benign": None}
    record(tmp_path / "one", trial("0", "a=1 seed=0", 0, 0.9, unsafe=shares))
    less = {"unsafe_malignant": 0.01, "unsafe_benign": None}
    record(tmp_path / "one", trial("1", "a=1 seed=1", 1, 0.9, unsafe=less))
    record(tmp_path / "none", trial("0", "a=1", 0, 0.9))
    trials = read_trials(tmp_path / "one")
    header, (row,) = short_table(rank(tmp_path / "one", group_trials(trials)))
    assert dict(zip(header, row, strict=True))["unsafe, malignant"] == "0.0200"
    assert "unsafe, benign" not in header  # no benign image on val
    header, _ = short_table(rank(tmp_path / "none", group_trials(read_trials(tmp_path / "none"))))
    assert not any(name.startswith("unsafe") for name in header)
