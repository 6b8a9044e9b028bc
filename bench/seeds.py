"""Mean, standard deviation and range of the test figures over runs.

python -m bench.seeds <folder of runs>
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from bcd.evaluation.metrics import HEADLINE


def main() -> None:
    """Prints a table in Markdown: a row for each run, then what they come to."""
    parser = argparse.ArgumentParser(prog="python -m bench.seeds", description=__doc__)
    parser.add_argument("folder", type=Path, help="its subfolders with a metrics.json are the runs")
    asked = parser.parse_args()
    files = sorted(asked.folder.glob("*/metrics.json"))
    if len(files) < 2:
        parser.error(f"{asked.folder} has {len(files)} runs; two or more are wanted")
    tests = [json.loads(file.read_text(encoding="utf-8"))["test"] for file in files]
    print(f"| run | {' | '.join(HEADLINE)} | n |")
    print("|---|" + "---:|" * (len(HEADLINE) + 1))
    for file, test in zip(files, tests, strict=True):
        cells = [f"{test[name]:.4f}" for name in HEADLINE]
        print(f"| {file.parent.name} | {' | '.join(cells)} | {test['n']} |")
    columns = [[test[name] for test in tests] for name in HEADLINE]
    spread = [f"{statistics.mean(c):.4f} ± {statistics.stdev(c):.4f}" for c in columns]
    print(f"| mean ± sd | {' | '.join(spread)} | |")
    print(f"| range | {' | '.join(f'{min(c):.4f} to {max(c):.4f}' for c in columns)} | |")


if __name__ == "__main__":
    main()
