"""How a promise is stated, measured and decisions: in one way for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, SupportsFloat

# How many times as many simulations as in the suite; `python -m tests.promises --times` sets it.
TIMES = int(os.environ.get("BCD_PROMISES_TIMES", "1"))
_STRAY = 3.0  # standard deviations by which a simulated rate may stray by chance


@dataclass(frozen=True)
class Promise:
    """A rate that is promised.

    Attributes:
        text: What is promised.
        made: Files that say so.
        rate: Between 0 and 1.
        bound: On which side of it the truth may be.
    """

    text: str
    made: str
    rate: float
    bound: Literal["at least", "at most", "about"] = "at least"


class Measured(NamedTuple):
    """A row of the table: a promise, one of its cases, and what came out."""

    text: str
    made: str
    case: str
    promised: str
    measured: float
    limit: str
    draws: int


Check = Callable[[Promise, str, SupportsFloat, float, int], None]


def repeated(draws: int) -> int:
    """How many simulations to run where the suite runs `draws`."""
    return draws * TIMES


def policy(
    promise: Promise, case: str, measured: float, tolerance: float, draws: int
) -> tuple[Measured, bool]:
    """Compares a measured rate with the promised one.

    Args:
        promise: The promise.
        case: What was simulated.
        measured: The rate found.
        tolerance: By how much the truth is known to miss the promise in this case, at most.
        draws: Simulations; what so few may stray by chance is allowed on top.

    Returns:
        The row, and whether the promise holds.
    """
    room = tolerance + _STRAY * (promise.rate * (1 - promise.rate) / draws) ** 0.5
    low = promise.rate - room if promise.bound != "at most" else 0.0
    high = promise.rate + room if promise.bound != "at least" else 1.0
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
    """The rows as a table in Markdown, the cases of a promise together."""
    measured = [Measured(*row) for row in rows]
    order = list(dict.fromkeys((row.text, row.made) for row in measured))
    lines = [
        "| promise | made in | case | promised | measured | fails unless | simulations |",
        "|---|---|---|---|---:|---|---:|",
    ]
    for promise in order:
        told = promise
        for row in (row for row in measured if (row.text, row.made) == promise):
            lines.append(
                f"| {told[0]} | {told[1]} | {row.case} | {row.promised} | {row.measured:.3f} "
                f"| {row.limit} | {row.draws:,} |"
            )
            told = ("", "")
    return "\n".join(lines)
