"""What training prints while it runs, in a terminal and in a log."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import bcd.training.progress
from bcd.console import track
from bcd.training.progress import epoch_line
from bcd.training.run import TrainResult, train
from tests.helpers.harness import SMALL, train_config

SHOWN = [word for word in SMALL if "progress" not in word]
LINE = re.compile(
    r"epoch (\d)/3  train loss (\S+) acc (\S+)(?: \| val loss (\S+) acc (\S+))?  \(\S+ s\)"
)


def run(folder: Path, *overrides: str) -> TrainResult:
    words = [*SHOWN, "logger=none", "trainer.max_epochs=3", f"data.root={folder.parent / 'in'}"]
    result = train(train_config(folder, *words, *overrides))
    assert result is not None
    return result


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("progress")


def test_each_epoch_has_one_line_with_its_own_figures(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = run(base / "log").classifier.history
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == len(history) == 3
    for number, (line, figures) in enumerate(zip(lines, history, strict=True), start=1):
        found = LINE.fullmatch(line)
        assert found is not None, line
        names = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
        expected = [f"{figures[n]:.4f}" if "loss" in n else f"{figures[n]:.3f}" for n in names]
        assert list(found.groups()) == [str(number), *expected]
        assert len(line) <= 80
    # No control characters in a log, and nothing of Lightning's own bars.
    assert re.search(r"[\x00-\x09\x0b-\x1f]", told.err + told.out) is None
    assert "━" not in told.err.partition("Results")[0]


def test_val_is_left_out_of_epochs_without_it(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(base / "every", "trainer.check_val_every_n_epoch=2")
    lines = [s for s in capsys.readouterr().err.splitlines() if s.startswith("epoch ")]
    assert ["val" in line for line in lines] == [False, True, False]


def test_a_fitted_head_has_one_line(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("head=logreg", "model=mobilenetv2", "model.weights=null", "model.input_size=48")
    (figures,) = run(base / "fitted", *words).classifier.history
    lines = [s for s in capsys.readouterr().err.splitlines() if " loss " in s and " acc " in s]
    assert lines == [epoch_line("head fitted", figures)]
    assert "val loss" in lines[0]


def test_a_terminal_has_a_bar_that_leaves_only_the_line(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminal() -> Console:
        return Console(stderr=True, force_terminal=True, width=80, highlight=False, soft_wrap=True)

    monkeypatch.setattr(bcd.training.progress, "console", terminal)
    run(base / "terminal")
    told = capsys.readouterr().err
    assert "epoch 2/3, val" in told and "━" in told  # the bar
    # What stays: rich erases the lines of a bar by moving up and clearing them.
    left = re.sub(r"\r?\x1b\[2K(\x1b\[1A\x1b\[2K)*", "\x00", told)
    lines = [one.rpartition("\x00")[2] for one in left.splitlines()]
    assert (
        len(
            [
                line
                for line in lines
                if LINE.fullmatch(re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", line))
            ]
        )
        == 3
    )


@pytest.mark.parametrize("loss", [0.1234, 99.99, 123456.0, math.nan, math.inf])
def test_the_longest_line_fits_a_terminal(loss: float) -> None:
    figures = {f"{s}/{n}": loss for s in ("train", "val") for n in ("loss", "accuracy")}
    figures |= {"train/accuracy": 1.0, "val/accuracy": 0.5}
    assert len(epoch_line("epoch 100/100", figures, 1234.5)) <= 80
    assert epoch_line("epoch 1", {"train/loss": 0.5, "train/accuracy": 1.0}, 3.21) == (
        "epoch 1  train loss 0.5000 acc 1.000  (3.2 s)"
    )


def test_a_log_has_a_line_for_each_tenth(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("bcd.console.time.monotonic", lambda: float(next(clock)))
    assert list(track(iter(range(40)), "Reading", 40)) == list(range(40))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "Reading: 4/40 (10%), 0.3/s, 108 s left"
    assert lines[8].startswith("Reading: 36/40 (90%)")
    assert lines[9].startswith("Reading: 40/40, ")


def test_lines_of_a_fast_step_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    def weighed() -> Iterator[int]:
        yield from (3, 5, 2)

    assert sum(track(weighed(), "Fast", 10, weigh=lambda size: size)) == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Fast: 10/10, ")


def test_nothing_to_do_is_no_division_by_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([], "Nothing", 0)) == []
    assert capsys.readouterr().err.startswith("Nothing: 0/0, ")
