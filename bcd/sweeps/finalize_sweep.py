"""Finalizes a sweep: ranks configurations on val, tests the best, writes the leaderboard."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from bcd.config.check import check_config, first_line
from bcd.config.training import TrainConfig
from bcd.console import command, say, short, show_table
from bcd.errors import BcdError
from bcd.evaluation.intervals import Interval
from bcd.run_folder import read_winner
from bcd.storage import write_csv
from bcd.sweeps.board import Board, headline
from bcd.sweeps.configurations import REPEATED, group_trials, key_of
from bcd.sweeps.exposure import Exposure, exposure_text, find_exposure
from bcd.sweeps.hparams import write_hparams
from bcd.sweeps.leaderboard import short_table, write_board
from bcd.sweeps.multiple_comparisons import numbered
from bcd.sweeps.ranking import BEST, Row, pooled_accuracy, rank, read_correct
from bcd.sweeps.trials import DONE, Trial, read_trials, run_trial
from bcd.sweeps.winner import read_tested, write_winner

_SHOWN = 30  # configurations shown in the terminal
DEFAULT = "default"  # folder of the trial without the values searched over


def finalize_sweep(sweep: Path, test: bool = True) -> int:
    """Ranks the trials in a sweep's folder, tests the best runs, and writes the leaderboard.

    Args:
        sweep: The folder.
        test: Whether to test the best runs if they have not been tested.

    Returns:
        Exit status: 1 if a trial did not finish or could not be tested.

    Raises:
        BcdError: There is no trial.
    """
    trials = read_trials(sweep)
    if not trials:
        raise BcdError(f"{sweep}: no trial found; give the folder of a sweep (train.py -m …)")
    rows = rank(sweep, group_trials(trials))
    winner = rows[0] if rows[0].verdict == BEST else None
    exposure = _exposure(sweep, rows) if winner else None
    tests, untested = (
        _test(sweep, winner, _note(sweep, rows, exposure), test) if winner else ({}, {})
    )
    if winner and untested:
        tried = tuple(
            replace(t, reason=untested.get(t.name, t.reason)) for t in winner.configuration.trials
        )
        rows[0] = replace(winner, configuration=replace(winner.configuration, trials=tried))
    done = sum(trial.status == DONE for trial in trials)
    tested = dict.fromkeys(tests, done) | read_tested(sweep)
    later = done - min([tested[name] for name in tests], default=done)
    pooled = pool(sweep, list(tests)) if tests else None
    others = [
        row.configuration.label for row in rows if row is not rows[0] and _was_tested(sweep, row)
    ]
    reproduce = reproduce_command(winner)
    board = Board(rows, tests, pooled, _default_of(rows), reproduce, tuple(others), exposure, later)
    write_board(sweep, board)
    write_winner(sweep, trials, winner.configuration.done if winner else (), tested)
    write_hparams(sweep, board)
    failed = sum(trial.status != DONE for trial in trials)
    _show(sweep, board, len(trials), failed if test else 0)
    return int(bool(failed or untested))


def run_default(config: DictConfig, sweep: Path) -> None:
    """Runs the configuration without the values searched over, as one more trial.

    Args:
        config: Of the multirun, with its `hydra` node.
        sweep: Its folder.
    """
    from hydra import compose
    from hydra.core.override_parser.overrides_parser import OverridesParser

    searched = set(config.hydra.sweeper.get("params") or {})
    given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    kept = [  # in the format that the sweeper uses for the other trials
        f"{o.get_key_element()}={o.get_value_element_as_str()}"
        for o in given
        if not o.is_sweep_override() and o.key_or_group not in searched
    ]
    cfg = compose(config.hydra.job.config_name, overrides=kept)
    run_trial(cfg, sweep, DEFAULT, kept)


def pool(sweep: Path, names: Sequence[str]) -> tuple[float, Interval, int]:
    """Concatenates the test predictions of trials into one `predictions.csv`.

    Args:
        sweep: The folder, in which the file is written.
        names: Of the trials.

    Returns:
        Share of correct predictions, its 95 % interval over images or clusters, and their number.
    """
    rows: list[list[str]] = []
    header: list[str] = []
    for name in names:
        with (sweep / name / "predictions.csv").open(newline="", encoding="utf-8") as stream:
            header, *own = csv.reader(stream)
        rows += [[name, *row] for row in own]
    write_csv(sweep / "predictions.csv", ["trial", *header], rows)
    pairs = [pair for n in names for pair in read_correct(sweep / n, "predictions.csv").values()]
    clusters = numbered([group for group, _ in pairs])
    share, interval = pooled_accuracy(np.array([correct for _, correct in pairs]), clusters)
    return share, interval, len(pairs)


def _default_of(rows: Sequence[Row]) -> Row | None:
    return next((r for r in rows if any(t.name == DEFAULT for t in r.configuration.trials)), None)


def _exposure(sweep: Path, rows: Sequence[Row]) -> Exposure:
    """Test images of the best configuration that the ranking used."""
    ranked = [row.configuration.done for row in rows if row.configuration.done]
    return find_exposure(
        sweep, ranked[0], [trial for done in ranked for trial in done], len(ranked)
    )


def _note(sweep: Path, rows: Sequence[Row], exposure: Exposure | None) -> str:
    """States in the report of a trial tested now how its test set was used."""
    ranked = [row for row in rows if row.configuration.done]
    others = sum(_was_tested(sweep, row) for row in ranked[1:])
    text = (
        f"This is a run of a sweep. It was tested after {len(ranked)} configurations had been "
        "ranked on val, because its configuration was the best."
        if len(ranked) > 1
        else "This is a run of a sweep with one configuration. It was tested after all runs had "
        "been trained."
    )
    if others:
        text += f" {others} of the other configurations had been tested before."
    sentence = exposure_text(exposure)
    return f"{text} {sentence[0].upper()}{sentence[1:]}." if sentence else text


def _test(sweep: Path, winner: Row, note: str, now: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Test metrics by trial, and why trials could not be tested."""
    tests, untested = {}, {}
    for trial in winner.configuration.done:
        folder = sweep / trial.name
        try:
            figures = _tested(folder)
            if figures is None and now:
                figures = _test_now(folder, trial, note)
        except Exception as error:
            untested[trial.name] = f"not tested: {first_line(error)}"
            continue
        if figures is not None:
            tests[trial.name] = figures
    return tests, untested


def _tested(folder: Path) -> dict[str, Any] | None:
    """Test metrics of a trial that was tested before; None if it was not."""
    file = folder / "metrics.json"
    if not file.is_file() or not (folder / "audit.json").is_file():
        return None
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["test"]
    return figures


def _was_tested(sweep: Path, row: Row) -> bool:
    """Whether a configuration was tested, as the best before the sweep was extended."""
    return any(_tested(sweep / trial.name) is not None for trial in row.configuration.done)


def _test_now(folder: Path, trial: Trial, note: str) -> dict[str, Any]:
    from bcd.training.run import test_trained

    if not trial.best:
        raise BcdError("no best checkpoint was kept")
    plain = OmegaConf.load(folder / "config.yaml")
    assert isinstance(plain, DictConfig)
    say(f"trial {trial.name}: testing")
    cfg = check_config(plain, TrainConfig)
    return test_trained(cfg, folder / trial.best, trial.history, trial.steps, note)["test"]


def reproduce_command(winner: Row | None) -> str:
    """The command that reproduces all runs of the best configuration; empty if there is none."""
    if winner is None:
        return ""
    words = [o for o in winner.configuration.overrides if key_of(o) != "sweep"]  # no further search
    runs: dict[str, dict[str, None]] = {}
    for override in (o for trial in winner.configuration.done for o in trial.overrides):
        if key_of(override) in REPEATED:
            runs.setdefault(key_of(override), {})[override.partition("=")[2]] = None
    words += [f"{key}={','.join(values)}" for key, values in runs.items()]
    # Hydra's sweeper escapes interpolations.
    words = [re.sub(r"\$\\\{([\w.]+)\\\}", r"${\1}", word) for word in words]
    many = ["-m"] if any(len(values) > 1 for values in runs.values()) else []
    return command("train", *many, *words)


def _show(sweep: Path, board: Board, count: int, failed: int) -> None:
    shown = short(sweep)
    show_table("Leaderboard, ranked on val", *short_table(board.rows[:_SHOWN]))
    if len(board.rows) > _SHOWN:
        say(f"and {len(board.rows) - _SHOWN} more")
    for line in headline(board):
        say(line)
    if board.command:
        say(f"reproduce:   {board.command}")
        best = read_winner(sweep)
        if best.checkpoint.is_file():
            say(f"evaluate:    {command('eval', f'ckpt={short(best.checkpoint)}')}")
    if failed:
        words = [w for w in sys.argv[1:] if not w.startswith("hydra.sweep.dir=")]
        retry = command("train", *words, f"hydra.sweep.dir={shown}")
        say(f"{failed} of {count} trials did not finish; to retry:  {retry}")
    say(f"curves:      tensorboard --logdir {shlex.quote(shown)}")
    say(f"leaderboard: {shown}/leaderboard.html")
