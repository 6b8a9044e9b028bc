"""The winner of a sweep, as `leaderboard.json` names it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bcd.errors import BcdError
from bcd.storage import write_text
from bcd.sweeps.trials import RECORD, Trial

BOARD = "leaderboard.json"


@dataclass(frozen=True)
class Winner:
    """What a sweep's folder says of its best setting.

    Attributes:
        trials: Names of the setting's runs, in the order in which they were made.
        trial: Name of the run among them that has the best val score.
        checkpoint: Of that run.
    """

    trials: tuple[str, ...]
    trial: str
    checkpoint: Path


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
        winners: The best setting's; none where no trial came to an end.
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


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds trials of a sweep."""
    return any(folder.glob(f"*/{RECORD}"))


def read_winner(sweep: Path) -> Winner:
    """Reads which trials won.

    Raises:
        BcdError: The sweep was not ranked, has other trials since, or has no winner.
    """
    mend = f"rank it with python -m bcd.sweeps {sweep}, or give a trial's folder"
    try:
        known = json.loads((sweep / BOARD).read_text(encoding="utf-8"))
        ranked, best = known["ranked"], known["best"]
        won = best and Winner(tuple(best["trials"]), best["trial"], sweep / best["checkpoint"])
    except FileNotFoundError:
        raise BcdError(f"{sweep} is a sweep that was not ranked: {mend}") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BcdError(f"{sweep / BOARD} is damaged: {mend}") from error
    if ranked != sorted(file.parent.name for file in sweep.glob(f"*/{RECORD}")):
        raise BcdError(f"{sweep} has other trials than when it was ranked: {mend}")
    if won is None:
        raise BcdError(f"{sweep} is a sweep without a winner: no trial came to an end")
    assert isinstance(won, Winner)
    return won
