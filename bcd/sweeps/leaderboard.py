"""The leaderboard of a sweep: `leaderboard.csv`, `trials.csv` and `leaderboard.html`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bcd.evaluation.unsafe import UNSAFE_SHARES
from bcd.reporting.document import Block, Figure, Section, Table, write_html
from bcd.reporting.html import Cell
from bcd.reporting.results import UNSAFE_COLUMNS, UNSAFE_TITLES
from bcd.reporting.svg import save_svg
from bcd.storage import write_csv
from bcd.sweeps.board import Board, board_overview, interval_text, mean_text
from bcd.sweeps.configurations import mean_unsafe
from bcd.sweeps.leaderboard_figure import draw_board
from bcd.sweeps.ranking import INDISTINGUISHABLE, WORSE, Row, spread
from bcd.sweeps.trial_table import TRIALS_HEADER, csv_cell, report_link, trial_rows, trial_table

_SHORT_VERDICTS = {INDISTINGUISHABLE: "not distinguishable", WORSE: "worse"}

_CSV = (
    "rank", "configuration", "n_trials", "n_done", "val_accuracy_mean", "val_accuracy_sd",
    "val_accuracy_pooled", "val_accuracy_low", "val_accuracy_high", "n_val_predictions",
    *(f"val_{name}_mean" for name in UNSAFE_SHARES),
    "difference", "difference_low", "difference_high", "n_compared", "p_value", "verdict",
    "test_accuracy_mean",
    "test_accuracy_sd", "seconds", "reason", "overrides",
)  # fmt: skip


def short_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and rows for the terminal; differences are in percentage points."""
    shares, titles = _unsafe_columns(rows)
    header = ["configuration", "runs", "val accuracy", *titles, "minus best", "verdict"]
    return header, [
        [
            row.configuration.label,
            f"{len(row.configuration.done)}/{len(row.configuration.trials)}",
            mean_text(row.mean, row.sd),
            *_unsafe_cells(row, shares),
            "" if row.versus_best is None else _difference_text(row),
            _SHORT_VERDICTS.get(row.verdict, row.verdict),
        ]
        for row in rows
    ]


def _unsafe_columns(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Shares of unsafe answers that any configuration has, and the titles of their columns."""
    shares = [
        name
        for name in UNSAFE_SHARES
        if any(mean_unsafe(row.configuration, name) is not None for row in rows)
    ]
    return shares, [UNSAFE_COLUMNS[name] for name in shares]


def _unsafe_cells(row: Row, shares: Sequence[str]) -> list[str]:
    values = (mean_unsafe(row.configuration, name) for name in shares)
    return ["" if value is None else f"{value:.4f}" for value in values]


def _board_table(sweep: Path, rows: Sequence[Row]) -> Table:
    shares, titles = _unsafe_columns(rows)
    header = [
        "configuration", "rank", "runs", "mean ± sd", "pooled, 95 %", *titles, "minus best",
        "verdict",
    ]  # fmt: skip
    cells: list[list[Cell]] = [
        [
            _label(sweep, row),
            str(rank),
            f"{len(row.configuration.done)}/{len(row.configuration.trials)}",
            mean_text(row.mean, row.sd),
            "" if row.interval is None else interval_text(row.pooled, row.interval),
            *_unsafe_cells(row, shares),
            "" if row.versus_best is None else _difference_text(row),
            f"{row.verdict} ({row.configuration.reason})"
            if row.configuration.reason
            else row.verdict,
        ]
        for rank, row in enumerate(rows, start=1)
    ]
    return Table(header, cells)


def _label(sweep: Path, row: Row) -> Cell:
    """The label of a configuration, linked to the first report of its trials."""
    label = row.configuration.label
    found = (report_link(sweep, trial.name, label) for trial in row.configuration.done)
    return next((cell for cell in found if cell != label), label)


def _difference_text(row: Row) -> str:
    assert row.versus_best is not None
    value, low, high = row.versus_best.difference, row.versus_best.low, row.versus_best.high
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def write_board(sweep: Path, board: Board) -> None:
    """Writes the tables, the figure and the page into a sweep's folder."""
    write_csv(sweep / "leaderboard.csv", _CSV, [_csv_row(i, board) for i in range(len(board.rows))])
    write_csv(sweep / "trials.csv", TRIALS_HEADER, trial_rows(board.rows, board.tests))
    save_svg(draw_board(board.rows), sweep / "figures" / "leaderboard.svg")
    title = f"Leaderboard of {sweep.name}"
    sections = _sections(sweep, board)
    write_html(sweep / "leaderboard.html", title, sections, board_overview(sweep, board))


def _csv_row(place: int, board: Board) -> list[object]:
    row = board.rows[place]
    tests = [
        board.tests[t.name]["accuracy"] for t in row.configuration.done if t.name in board.tests
    ]
    mean, sd = spread(tests) if tests and place == 0 else (None, None)
    versus = row.versus_best
    cells: list[object] = [
        place + 1, row.configuration.label, len(row.configuration.trials),
        len(row.configuration.done), row.mean, row.sd, row.pooled, *(row.interval or (None, None)),
        row.n, *(mean_unsafe(row.configuration, name) for name in UNSAFE_SHARES),
        *((versus.difference, versus.low, versus.high, versus.n, versus.p_value) if versus
          else (None,) * 5),
        row.verdict, mean, sd, row.configuration.seconds, row.configuration.reason,
        " ".join(row.configuration.overrides),
    ]  # fmt: skip
    return [csv_cell(value) for value in cells]


def _sections(sweep: Path, board: Board) -> list[Section]:
    verdicts = "; ".join(f"{r.configuration.label}: {r.verdict}" for r in board.rows[:5])
    sections = [
        Section(
            "Configurations, ranked on val",
            [
                _board_table(sweep, board.rows),
                Figure(
                    "leaderboard", f"Val accuracy of each configuration, best first: {verdicts}"
                ),
            ],
        ),
        Section("How to read this table", list(_READING)),
    ]
    if board.pooled is not None:
        sections.append(Section("Best configuration on test", _test_blocks(board)))
    if board.command:
        sections.append(Section("Reproduce the best configuration", [board.command]))
    return [*sections, Section("Trials", [trial_table(sweep, board.rows, board.tests)])]


_READING = (
    "Trials that differ only in seed, split.seed or fold are runs of one configuration. Mean and "
    "standard deviation are over runs. Pooled is the share of correct predictions over all runs; "
    "its interval is a cluster bootstrap over images, or over clusters of images if known.",
    "Minus best is the difference in accuracy, in percentage points, on the images that both "
    "predicted in the same run. Its paired interval is adjusted for the number of configurations "
    "and for the selection of the best on the same predictions. If it contains 0, there is no "
    "evidence that the configuration is worse.",
    "Unsafe answers are malignant images that are called benign and not referred, as a share of "
    "malignant images, and benign ones called malignant likewise. The columns are means over runs, "
    "on val, where threshold and referral limits were fitted: expect more on new images.",
)


def _test_blocks(board: Board) -> list[Block]:
    assert board.pooled is not None
    rows = []
    for name in ("accuracy", "precision", "recall", "f1", "ece"):
        mean, sd = spread([test[name] for test in board.tests.values()])
        rows.append([name, mean_text(mean, sd)])
    for name in UNSAFE_SHARES:
        known = [x for test in board.tests.values() if (x := test.get(name)) is not None]
        if known:
            rows.append([UNSAFE_TITLES[name], mean_text(*spread(known))])
    share, interval, n = board.pooled
    rows.append(["accuracy, pooled", interval_text(share, interval)])
    runs = "one run" if len(board.tests) == 1 else f"{len(board.tests)} runs, mean ± sd"
    return [Table(["metric", runs], rows), f"{n} predictions, all in predictions.csv."]
