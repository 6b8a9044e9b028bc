"""The best configuration of a sweep, as recorded in `leaderboard.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bcd.run_folder import BOARD
from bcd.storage import write_text
from bcd.sweeps.trials import Trial


def write_winner(
    sweep: Path,
    ranked: Sequence[Trial],
    winners: Sequence[Trial],
    tested: Mapping[str, int] | None = None,
) -> None:
    """Writes `leaderboard.json`.

    Args:
        sweep: The folder.
        ranked: All trials that were ranked.
        winners: Those of the best configuration; none if no trial finished.
        tested: As returned by `read_tested`.
    """
    best = max(winners, key=lambda trial: trial.score, default=None)
    kept = {
        "ranked": sorted(trial.name for trial in ranked),
        "tested": dict(tested or {}),
        "best": None
        if best is None
        else {
            "trials": [trial.name for trial in winners],
            "trial": best.name,
            "checkpoint": f"{best.name}/{best.best}" if best.best else "",
        },
    }
    write_text(sweep / BOARD, json.dumps(kept, indent=1) + "\n")


def read_tested(sweep: Path) -> dict[str, int]:
    """By tested trial, the number of trials finished at that time; empty if unknown."""
    try:
        known = json.loads((sweep / BOARD).read_text(encoding="utf-8"))["tested"]
        return {str(name): int(count) for name, count in known.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
