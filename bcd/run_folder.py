"""The files of a run folder that describe the run, its checkpoint, and the winner of a sweep."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bcd.errors import BcdError
from bcd.storage import typed_path, write_text


def write_config(run_dir: Path, config: Any) -> None:
    """Writes `config.yaml`, the resolved configuration, a dataclass or a mapping."""
    import yaml

    plain = dict(config) if isinstance(config, Mapping) else asdict(config)
    write_text(run_dir / "config.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def check_no_run(run_dir: Path) -> None:
    """Checks that results written to a folder replace none of a training run.

    Raises:
        BcdError: It is the folder of a training run.
    """
    if (run_dir / "checkpoints").is_dir():
        raise BcdError(
            f"run_dir={run_dir}: is the folder of a training run, whose results would be "
            "overwritten: give another run_dir"
        )


def write_run_info(run_dir: Path, started: float, **facts: Any) -> None:
    """Writes `run.json`: command, git state, versions, times, and the given facts.

    Args:
        run_dir: The run folder.
        started: The start of the run, in seconds since the epoch.
        facts: Further values that JSON can hold, such as the data's fingerprint.
    """
    info = {
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "git": _git_state(),
        "versions": versions(),
        "started": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 2),
        **facts,
    }
    write_text(run_dir / "run.json", json.dumps(info, indent=1) + "\n")


def _program() -> str:
    """The name of the program on the command line, `bcd` for `python -m bcd`."""
    name = Path(sys.argv[0]).name
    return "bcd" if name == "__main__.py" else name


def _git_state() -> dict[str, Any]:
    """The commit of the project's checkout and whether it has changes; empty if installed."""
    file = Path(__file__)

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                # With locks, git would write the index that it refreshes.
                ["git", "--no-optional-locks", "-C", str(file.parent), *words],
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may be inside the checkout of something else.
    sha = ask("rev-parse", "HEAD") if ask("ls-files", "--error-unmatch", file.name) else None
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
    """The best configuration of a sweep, as recorded in its folder.

    Attributes:
        trials: Names of the configuration's runs, in the order in which they were made.
        trial: Name of the run among them with the best val score.
        checkpoint: The checkpoint of that run.
    """

    trials: tuple[str, ...]
    trial: str
    checkpoint: Path


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds trials of a sweep."""
    return any(folder.glob(f"*/{RECORD}"))


def read_winner(sweep: Path) -> Winner:
    """Reads the winner of a sweep.

    Raises:
        BcdError: The sweep was not ranked, has changed since, or has no winner.
    """
    fix = f"rank it with bcd sweep {sweep}, or give a trial's folder"
    try:
        known = json.loads((sweep / BOARD).read_text(encoding="utf-8"))
        ranked, best = known["ranked"], known["best"]
        won = best and Winner(tuple(best["trials"]), best["trial"], sweep / best["checkpoint"])
    except FileNotFoundError:
        raise BcdError(f"{sweep} is a sweep that was not ranked yet: {fix}") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BcdError(f"{sweep / BOARD} is damaged: {fix}") from error
    if ranked != sorted(file.parent.name for file in sweep.glob(f"*/{RECORD}")):
        raise BcdError(f"{sweep} has changed since it was ranked: {fix}")
    if won is None:
        raise BcdError(f"{sweep} is a sweep without a winner: no trial finished")
    assert isinstance(won, Winner)
    return won


def find_checkpoint(text: str, key: str = "ckpt") -> Path:
    """Finds the checkpoint that a setting refers to.

    Args:
        text: A checkpoint, a run folder (its best.ckpt), a sweep (that of its winner) or a folder
            of runs (that of the newest; where it is a trial of a sweep, that of the winner).
        key: The setting's key, for the error.

    Raises:
        BcdError: There is none, or a sweep that was not ranked.
    """
    path = typed_path(text).absolute()
    if path.suffix.lower() == ".onnx":
        raise BcdError(
            f"{key}={text}: an exported model, which only bcd predict takes, as model=<file>: give "
            "the checkpoint that it was exported from"
        )
    if path.is_file():
        return path
    found = list(path.rglob("best.ckpt")) if path.is_dir() else []
    if not found:
        raise BcdError(f"{key}={text}: no checkpoint there; train.py writes checkpoints/best.ckpt")
    newest = max(found, key=lambda file: file.stat().st_mtime)
    sweep = newest.parent.parent.parent  # if it is a trial's
    if not sweep.is_relative_to(path) or not is_sweep(sweep):
        return newest
    checkpoint = read_winner(sweep).checkpoint
    if not checkpoint.is_file():
        raise BcdError(f"{key}={text}: the winner of the sweep has no checkpoint there")
    return checkpoint


RECORD = "trial.json"
