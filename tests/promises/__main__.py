"""Measures every statistical promise and prints the table of docs/promises.md.

python -m tests.promises [--times 10] [arguments of pytest]
python -m tests.promises --search 120
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


class Rows:
    """Plugin of pytest that keeps what was measured."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.rows += [row for name, row in report.user_properties if name == "promise"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.promises", description=__doc__)
    parser.add_argument("--times", type=int, default=1, help="as many simulations as in the suite")
    parser.add_argument(
        "--search", type=int, default=0, help="instead: accuracy's worst coverage, with so many "
        "data sets a case",
    )  # fmt: skip
    asked, others = parser.parse_known_args()
    sys.path.insert(0, str(HERE.parent))
    if asked.search:
        from tests.promises.searching import search

        print(search(asked.search))  # noqa: T201
        return 0
    os.environ["BCD_PROMISES_TIMES"] = str(asked.times)
    kept = Rows()
    status = pytest.main([str(HERE), "-q", *others], plugins=[kept])
    from tests.promises.stating import table

    print("\n" + table(kept.rows))  # noqa: T201
    return int(status)


if __name__ == "__main__":
    raise SystemExit(main())
