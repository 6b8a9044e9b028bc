"""The winner of a sweep, as `leaderboard.json` names it."""

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
        ranked: All trials that the ranking knows.
        winners: The best configuration's; none where no trial came to an end.
        tested: As `read_tested` gives it.
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
    """Of trials that were tested, how many had come to an end by then; empty where unknown."""
    try:
        known = json.loads((sweep / BOARD).read_text(encoding="utf-8"))["tested"]
        return {str(name): int(count) for name, count in known.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
