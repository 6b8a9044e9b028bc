"""Hyperparameters and results of trials for TensorBoard's HParams."""

from __future__ import annotations

import shutil
from pathlib import Path

from bcd.sweeps.board import Board
from bcd.sweeps.configurations import REPEATED, key_of
from bcd.sweeps.trials import Trial

Value = float | str


def write_hparams(sweep: Path, board: Board) -> None:
    """Writes `hparams/<trial>/` anew: one session for each trial that finished.

    They are separate from the trials' own events, because TensorBoard shows metrics of a run in one
    place only, and those of the best runs change when they are tested.

    Args:
        sweep: Folder of the sweep.
        board: Its leaderboard.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    shutil.rmtree(sweep / "hparams", ignore_errors=True)
    trials = [trial for row in board.rows for trial in row.configuration.done]
    known = {t.name: _metrics(t, board) for t in trials}
    defaults = {name: 0.0 for metrics in known.values() for name in metrics}
    keys = _varied(trials)
    for trial in trials:
        given = {key_of(o): o.partition("=")[2] for o in trial.overrides}
        given |= dict(
            zip(REPEATED, map(str, trial.run), strict=False)
        )  # values instead of interpolations
        values = {key: _typed(given[key]) for key in keys if key in given}
        with SummaryWriter(str(sweep / "hparams" / trial.name)) as writer:
            for summary in hparams(values, defaults):  # type: ignore[no-untyped-call]
                writer.file_writer.add_summary(summary)
            for name, value in known[trial.name].items():
                writer.add_scalar(name, value, trial.steps)


def _metrics(trial: Trial, board: Board) -> dict[str, float]:
    metrics = {"final/val_accuracy": trial.accuracy, "final/val_loss": trial.loss}
    test = board.tests.get(trial.name)
    if test is not None:
        metrics |= {f"final/test_{name}": test[name] for name in ("accuracy", "f1", "loss")}
    return metrics


def _varied(trials: list[Trial]) -> list[str]:
    """Keys in which trials differ; always including seeds and folds."""
    given: dict[str, set[str]] = {}
    for trial in trials:
        for override in trial.overrides:
            given.setdefault(key_of(override), set()).add(override)
    count = len(trials)
    counts = {k: sum(any(key_of(o) == k for o in t.overrides) for t in trials) for k in given}
    return [
        key for key, found in given.items()
        if len(found) > 1 or counts[key] < count or key in REPEATED
    ]  # fmt: skip


def _typed(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text
