"""Ranks the finished trials of a sweep, which may still run or have been killed. Tests nothing.

bcd sweep outputs/paper/multirun_<time>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bcd.cli.app import quick_imports


def main() -> int:
    """Writes the leaderboard of a sweep; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bcd sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="the folder of the sweep")
    asked = parser.parse_args()
    with quick_imports():
        from bcd.sweeps.finalize_sweep import finalize_sweep
    return finalize_sweep(asked.folder.absolute(), test=False)
