"""How promises are stated, measured and compared with what was measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, SupportsFloat

# Factor on the number of simulations in the test suite; `python -m tests.promises --times` sets it.
TIMES = int(os.environ.get("BCD_PROMISES_TIMES", "1"))
_SIGMAS = 3.0  # standard deviations by which a simulated rate may differ by chance


@dataclass(frozen=True)
class Promise:
    """A rate that is promised.

    Attributes:
        text: The promise.
        made: Files that state it.
        rate: Between 0 and 1.
        bound: On which side of it the true rate may be.
    """

    text: str
    made: str
    rate: float
    bound: Literal["at least", "at most", "about"] = "at least"


class Measured(NamedTuple):
    """A row of the table: a promise, one of its cases, and the measured rate."""

    text: str
    made: str
    case: str
    promised: str
    measured: float
    limit: str
    draws: int


Check = Callable[[Promise, str, SupportsFloat, float, int], None]


def repeated(draws: int) -> int:
    """Number of simulations to run where the test suite runs `draws`."""
    return draws * TIMES


def compare_rate(
    promise: Promise, case: str, measured: float, tolerance: float, draws: int
) -> tuple[Measured, bool]:
    """Compares a measured rate with the promised one.

    Args:
        promise: The promise.
        case: What was simulated.
        measured: The measured rate.
        tolerance: By how much the true rate is known to miss the promise in this case, at most.
        draws: Number of simulations; their random error is allowed in addition.

    Returns:
        The row, and whether the promise holds.
    """
    slack = tolerance + _SIGMAS * (promise.rate * (1 - promise.rate) / draws) ** 0.5
    low = promise.rate - slack if promise.bound != "at most" else 0.0
    high = promise.rate + slack if promise.bound != "at least" else 1.0
    limits = {
        "at least": f"≥ {low:.3f}",
        "at most": f"≤ {high:.3f}",
        "about": f"{low:.3f} to {high:.3f}",
    }
    row = Measured(
        promise.text,
        promise.made,
        case,
        f"{promise.bound} {promise.rate:.3g}",
        measured,
        limits[promise.bound],
        draws,
    )
    return row, low <= measured <= high


def table(rows: list[Any]) -> str:
    """The rows as a Markdown table, grouped by promise."""
    measured = [Measured(*row) for row in rows]
    order = list(dict.fromkeys((row.text, row.made) for row in measured))
    lines = [
        "| promise | made in | case | promised | measured | fails unless | simulations |",
        "|---|---|---|---|---:|---|---:|",
    ]
    for promise in order:
        shown = promise
        for row in (row for row in measured if (row.text, row.made) == promise):
            lines.append(
                f"| {shown[0]} | {shown[1]} | {row.case} | {row.promised} | {row.measured:.3f} "
                f"| {row.limit} | {row.draws:,} |"
            )
            shown = ("", "")
    return "\n".join(lines)
