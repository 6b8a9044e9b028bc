"""A release that is killed at any place ends, by the same command, in the same release."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.forking import CAN_FORK
from tests.release.making import FOLDS, TRAINED, released

# Where the process is killed: a function, and at which of its calls.
PLACES = (
    ("bcd.models.classifier.SmearClassifier.on_train_epoch_end", 2),  # in fold 0
    ("bcd.release.members.run_trial", 3),  # before fold 2; fold 1 is recorded
    ("bcd.release.run.fit_release", 1),
    ("bcd.release.run.write_results", 1),
    ("bcd.release.run.save_content", 1),
)
WORDS = (*TRAINED, "tta=flips")
FILES = ("checkpoints/best.ckpt", "predictions.csv", "metrics.json", "folds.csv", "model_card.md")


def kill_at(place: str, call: int) -> None:
    """Has the process killed when a function is called for that time."""
    from importlib import import_module

    parts = place.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        break
    for name in parts[cut:-1]:
        owner = getattr(owner, name)
    original: Callable[..., Any] = getattr(owner, parts[-1])
    calls = 0

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os._exit(9)
        return original(*arguments, **more)

    setattr(owner, parts[-1], counted)


@pytest.mark.slow
@pytest.mark.skipif(not CAN_FORK, reason="the process is prepared before it starts")
@pytest.mark.exhaustive  # folds that are there already are tested in test_release.py
def test_a_release_killed_at_five_places_ends_bit_by_bit_the_same(base: Path) -> None:
    folder, status, said = released(base, "killed", *WORDS)
    assert status == 0, said
    wanted = {name: (folder / name).read_bytes() for name in FILES}
    shutil.rmtree(folder)
    finished: dict[int, int] = {}
    for place, call in PLACES:
        _, status, said = released(base, "killed", *WORDS, prepare=partial(kill_at, place, call))
        assert status == 9, (place, said)
        assert not (folder / "checkpoints" / "best.ckpt").exists(), place
        for fold in range(FOLDS):
            file = folder / "folds" / str(fold) / "checkpoints" / "best.ckpt"
            if fold in finished:
                assert file.stat().st_mtime_ns == finished[fold], (place, fold)
            elif f"trial {fold}: val" in said:
                finished[fold] = file.stat().st_mtime_ns
    assert sorted(finished) == [*range(FOLDS)]
    _, status, said = released(base, "killed", *WORDS)
    assert status == 0, said
    assert said.count("already done") == FOLDS
    for name, content in wanted.items():
        assert (folder / name).read_bytes() == content, name
