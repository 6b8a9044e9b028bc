"""The trials of a sweep: rows of `trials.csv`, and the table of them in `leaderboard.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bcd.evaluation.unsafe import UNSAFE_SHARES
from bcd.reporting.document import Table
from bcd.reporting.html import Cell, Link
from bcd.sweeps.ranking import Row
from bcd.sweeps.trials import DONE

Tests = Mapping[str, Mapping[str, Any]]


def csv_cell(value: object) -> object:
    """A value in CSV: six decimals, and empty if it is unknown."""
    if value is None or value != value:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else value


TRIALS_HEADER = (
    "trial", "configuration", "seed", "split_seed", "fold", "status", "val_accuracy", "val_loss",
    *(f"val_{name}" for name in UNSAFE_SHARES), "n_val", "test_accuracy", "seconds", "reason",
)  # fmt: skip


def trial_rows(rows: Sequence[Row], tests: Tests) -> list[list[object]]:
    """Rows of `trials.csv`, with `TRIALS_HEADER`.

    Args:
        rows: Of the leaderboard.
        tests: Test metrics of the tested trials, by trial.
    """
    return [
        [
            csv_cell(value)
            for value in (
                trial.name, row.configuration.label, *(trial.run or ("", "", "")), trial.status,
                trial.accuracy, trial.loss, *map(trial.unsafe.get, UNSAFE_SHARES), trial.n,
                tests.get(trial.name, {}).get("accuracy"), trial.seconds, trial.reason,
            )
        ]
        for row in rows
        for trial in row.configuration.trials
    ]  # fmt: skip


def report_link(sweep: Path, trial: str, text: str) -> Cell:
    """A cell that links to the report of a trial; only the text if it has none.

    Args:
        sweep: Folder of the sweep, with the page that has the cell.
        trial: Name of the trial's folder.
        text: Of the cell.
    """
    path = f"{trial}/report.html"
    return Link(text, path) if (sweep / path).is_file() else text


def trial_table(sweep: Path, leaderboard: Sequence[Row], tests: Tests) -> Table:
    """The table of all trials.

    Args:
        sweep: Folder of the sweep.
        leaderboard: Its rows.
        tests: Test metrics of the tested trials, by trial.
    """
    header = (
        "trial", "configuration", "seed", "split.seed", "fold", "val accuracy", "loss", "on test",
        "s", "status",
    )  # fmt: skip
    rows: list[list[Cell]] = []
    for row in leaderboard:
        for trial in row.configuration.trials:
            test = tests.get(trial.name)
            done = trial.status == DONE
            rows.append(
                [
                    report_link(sweep, trial.name, trial.name),
                    row.configuration.label,
                    *(str(number) for number in trial.run or ("", "", "")),
                    f"{trial.accuracy:.4f}" if done else "",
                    f"{trial.loss:.4f}" if done else "",
                    "" if test is None else f"{test['accuracy']:.4f}",
                    f"{trial.seconds:.1f}",
                    f"{trial.status}: {trial.reason}" if trial.reason else trial.status,
                ]
            )
    return Table(header, rows)
