"""What a leaderboard shows, in sentences and on the first screen of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bcd
from bcd.evaluation.intervals import Interval
from bcd.reporting.html import Link
from bcd.reporting.overview import Overview, Tile, percent, percent_interval, today
from bcd.sweeps.exposure import Exposure, exposure_text
from bcd.sweeps.ranking import INDISTINGUISHABLE, WORSE, Row, spread


@dataclass(frozen=True)
class Board:
    """Everything that a leaderboard shows.

    Attributes:
        rows: The configurations, best first.
        tests: Test metrics of the best configuration's trials, by trial.
        pooled: Share of correct predictions on test over all of these, its interval, and their
            number.
        default: The configuration without the values searched over, if there is one.
        command: Reproduces the best configuration.
        tested_too: Labels of other configurations that were tested, because they were the best
            before the sweep was extended.
        exposure: Test images of the best configuration that the ranking used; None without a best.
        later: Number of trials that finished after a run of the best configuration was tested.
    """

    rows: Sequence[Row]
    tests: Mapping[str, Mapping[str, Any]]
    pooled: tuple[float, Interval, int] | None
    default: Row | None
    command: str
    tested_too: Sequence[str] = ()
    exposure: Exposure | None = None
    later: int = 0


def mean_text(mean: float, sd: float | None) -> str:
    """A mean with its standard deviation; empty if it is unknown."""
    if np.isnan(mean):
        return ""
    return f"{mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}")


def interval_text(value: float, interval: Interval) -> str:
    """A share with its interval."""
    return f"{value:.4f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def headline(board: Board) -> list[str]:
    """The results in a few sentences."""
    first = board.rows[0]
    if first.interval is None:
        return ["no trial finished"]
    lines = [
        f"best on val: {first.configuration.label}, accuracy "
        f"{mean_text(first.mean, first.sd)} (n = {first.n})"
    ]
    verdicts = [row.verdict for row in board.rows[1:] if row.interval is not None]
    if verdicts:
        same, worse = verdicts.count(INDISTINGUISHABLE), verdicts.count(WORSE)
        lines.append(
            f"other configurations: {worse} worse than it, {same} not distinguishable from it"
        )
        if max(len(row.configuration.done) for row in board.rows) < 2:
            lines.append(
                "one run per configuration, so the order may change when training is repeated; "
                "seed=0,1,2 would show"
            )
    if board.default is not None:
        lines.append(_versus_default(first, board.default))
    if board.pooled is not None:
        mean, sd = spread([test["accuracy"] for test in board.tests.values()])
        share, interval, n = board.pooled
        pooled = f"pooled {interval_text(share, interval)} (n = {n})"
        lines.append(f"the best on test: accuracy {mean_text(mean, sd)}, {pooled}")
    if board.pooled is not None or board.tested_too:
        lines.append(_tested_text(board))
    return [*lines, *filter(None, [exposure_text(board.exposure)])]


def _tested_text(board: Board) -> str:
    tested = len(board.tested_too) + (board.pooled is not None)
    if not board.tested_too and board.later:
        return (
            "only the best configuration was tested, but the sweep was extended: "
            f"{board.later} of its trials finished after that"
        )
    if not board.tested_too:
        if board.exposure is not None and board.exposure.differs:
            return "only the best configuration was tested, after the ranking"
        return "the test set was used for the best configuration only, after the ranking"
    return (
        f"the test set was used for {tested} configurations, because the sweep was extended: also "
        f"for {'; '.join(board.tested_too)}"
    )


def _versus_default(first: Row, default: Row) -> str:
    if default is first:
        return "the search did not improve on the default: no val accuracy is higher"
    if default.versus_best is None:
        return "the default cannot be compared: it did not finish"
    gain = f"by {0 - 100 * default.versus_best.difference:.1f} percentage points of val accuracy"
    if default.verdict == WORSE:
        return f"the search improved on the default {gain}"
    return f"the search did not significantly improve on the default: higher {gain}"


def board_overview(sweep: Path, board: Board) -> Overview:
    """The first screen of the page: the results in sentences, headline figures, files.

    Args:
        sweep: Folder of the sweep.
        board: The leaderboard.
    """
    first, *more = (f"{line[0].upper()}{line[1:]}." for line in headline(board))
    found = ["leaderboard.csv", "trials.csv"]
    if board.pooled is not None:
        found += ["predictions.csv", *(f"{name}/report.html" for name in board.tests)]
    return Overview(
        f"Sweep, {today()}, bcd {bcd.__version__}",
        verdict=first,
        reasons=more,
        tiles=_tiles(board),
        files=[Link(path, path) for path in found],
    )


def _tiles(board: Board) -> list[Tile]:
    best = board.rows[0]
    tiles = []
    if best.interval is not None:
        interval = percent_interval(best.interval)
        tiles.append(Tile("Val accuracy of the best", percent(best.pooled), [interval]))
    if board.pooled is not None:
        share, low_high, n = board.pooled
        notes = [percent_interval(low_high), f"{n} predictions"]
        tiles.append(Tile("Test accuracy of the best", percent(share), notes))
    done = sum(len(row.configuration.done) for row in board.rows)
    count = sum(len(row.configuration.trials) for row in board.rows)
    same = sum(row.verdict == INDISTINGUISHABLE for row in board.rows)
    told = f"{same} not distinguishable from the best"
    return [
        *tiles,
        Tile("Configurations", str(len(board.rows)), [told]),
        Tile("Trials that finished", f"{done} of {count}"),
    ]
