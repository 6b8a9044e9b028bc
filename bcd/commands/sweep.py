"""Ranks what a sweep has so far: while it runs, or after its process was killed. Tests nothing.

python -m bcd.sweeps outputs/paper/multirun_<time>
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bcd.cli.app import quick_imports, tell
from bcd.config.environment import use_own_folders
from bcd.errors import BcdError


def main() -> int:
    """Writes the leaderboard of a folder; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bcd.sweeps", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the sweep")
    asked = parser.parse_args()
    use_own_folders()
    with quick_imports():
        from bcd.sweeps.finalize import conclude_sweep
    try:
        return conclude_sweep(asked.folder.absolute(), test=False)
    except BcdError as error:
        tell(str(error))
        return error.status


if __name__ == "__main__":
    sys.exit(main())
