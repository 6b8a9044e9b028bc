"""The run folder: what was run, on what, by which versions, and how long it took."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bcd.errors import BcdError
from bcd.storage import write_text


def write_config(run_dir: Path, config: Any) -> None:
    """Writes `config.yaml`, the resolved configuration."""
    import yaml

    plain = asdict(config)
    write_text(run_dir / "config.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def write_run_info(run_dir: Path, started: float, **facts: Any) -> None:
    """Writes `run.json`: command, git state, versions, times, and the given facts.

    Args:
        run_dir: The run folder.
        started: When the run began, in seconds since the epoch.
        facts: Anything plain, such as the data's fingerprint.
    """
    info = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": _git_state(),
        "versions": versions(),
        "started": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 2),
        **facts,
    }
    write_text(run_dir / "run.json", json.dumps(info, indent=1) + "\n")


def _git_state() -> dict[str, Any]:
    """SHA of the project's checkout and whether it is changed; empty outside one."""
    folder = Path(__file__).parent

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                # Without the lock, git would write the index that it has refreshed.
                ["git", "--no-optional-locks", "-C", str(folder), *words],
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    sha = ask("rev-parse", "HEAD")
    if sha is None:
        return {}
    return {"sha": sha, "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    from importlib.metadata import version

    import bcd

    packages = (
        "torch", "torchvision", "lightning", "torchmetrics", "albumentations", "numpy", "pillow",
        "opencv-python-headless", "onnxruntime", "scikit-learn",
    )  # fmt: skip
    found = {name: version(name) for name in packages}
    if find_spec("timm") is not None:
        found["timm"] = version("timm")
    return {"bcd": bcd.__version__, "python": platform.python_version(), **found}


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


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds trials of a sweep."""
    return any(folder.glob(f"*/{RECORD}"))


def read_winner(sweep: Path) -> Winner:
    """Reads which trials won.

    Raises:
        BcdError: The sweep was not ranked, has other trials since, or has no winner.
    """
    fix = f"rank it with bcd sweep {sweep}, or give a trial's folder"
    try:
        known = json.loads((sweep / BOARD).read_text(encoding="utf-8"))
        ranked, best = known["ranked"], known["best"]
        won = best and Winner(tuple(best["trials"]), best["trial"], sweep / best["checkpoint"])
    except FileNotFoundError:
        raise BcdError(f"{sweep} is a sweep that was not ranked: {fix}") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BcdError(f"{sweep / BOARD} is damaged: {fix}") from error
    if ranked != sorted(file.parent.name for file in sweep.glob(f"*/{RECORD}")):
        raise BcdError(f"{sweep} has other trials than when it was ranked: {fix}")
    if won is None:
        raise BcdError(f"{sweep} is a sweep without a winner: no trial came to an end")
    assert isinstance(won, Winner)
    return won


RECORD = "trial.json"
