"""The run folder: what was run, on what, by which versions, and how long it took."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

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
    from bcd.inference.checkpoint import versions

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
