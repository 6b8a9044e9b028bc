"""Interrupted runs: where they end, what they say, and that they can be resumed."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bcd.errors import BcdError
from bcd.models.classifier import SmearClassifier
from bcd.training.run import TrainResult, train
from tests.helpers.harness import SMALL, train_config

FROZEN = ("model.unfreeze=0", "logger=none")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interruptions") / "images"


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT, and so does a test run that is one of them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(images: Path, run_dir: Path, *overrides: str) -> TrainResult | None:
    return train(train_config(run_dir, *SMALL, *FROZEN, f"data.root={images}", *overrides))


def test_an_interrupted_run_names_only_what_is_there(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at = 0
    begin = SmearClassifier.on_train_epoch_start

    def interrupted(self: SmearClassifier) -> None:
        if self.current_epoch == stop_at:
            raise KeyboardInterrupt
        begin(self)

    monkeypatch.setattr(SmearClassifier, "on_train_epoch_start", interrupted)
    with pytest.raises(BcdError, match="nothing was saved yet: start again") as first:
        run(images, tmp_path / "first")
    stop_at = 1
    with pytest.raises(BcdError, match="continue with ") as second:
        run(images, tmp_path / "the second")
    assert shlex.split(str(second.value))[-1] == f"resume={tmp_path}/the second"
    assert first.value.status == second.value.status == 130
    assert (tmp_path / "the second" / "checkpoints" / "last.ckpt").is_file()


def test_a_run_interrupted_before_or_after_its_epochs_says_how_to_continue(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bcd.training.run.make_datamodule", pressed)
    with pytest.raises(BcdError, match="nothing was saved yet: start again") as before:
        run(images, tmp_path / "before")
    monkeypatch.undo()
    monkeypatch.setattr("bcd.training.run.finalize", pressed)
    with pytest.raises(BcdError, match=f"continue with resume={tmp_path}/after") as after:
        run(images, tmp_path / "after")
    assert before.value.status == after.value.status == 130


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_training_between_batches_and_at_once_the_second_time(
    presses: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log call that is cut short leaves TensorBoard's queue locked."""
    calls, finished, left = 0, 0, presses
    log = SmearClassifier.log_dict

    def interrupted(self: SmearClassifier, *given: Any, **named: Any) -> None:
        nonlocal calls, finished, left
        calls += 1
        while self.current_epoch == 1 and left:
            left -= 1
            signal.raise_signal(signal.SIGINT)
        log(self, *given, **named)
        finished += 1

    monkeypatch.setattr(SmearClassifier, "log_dict", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(BcdError, match="interrupted: continue with ") as caught:
        run(images, tmp_path / "run", "trainer.max_epochs=3")
    assert caught.value.status == 130
    assert calls - finished == presses - 1
    assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler


def test_ctrl_c_in_the_last_batch_is_not_forgotten(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(self: SmearClassifier) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SmearClassifier, "on_fit_end", pressed)
    with pytest.raises(BcdError, match="interrupted: continue with "):
        run(images, tmp_path / "run", "trainer.max_epochs=1")
    assert not (tmp_path / "run" / "metrics.json").exists()
    monkeypatch.undo()
    run(images, tmp_path / "run", "trainer.max_epochs=1", f"resume={tmp_path / 'run'}")
    assert (tmp_path / "run" / "metrics.json").is_file()
