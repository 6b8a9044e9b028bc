"""Takes the screenshots in docs/ of a report and a leaderboard, on generated smears.

It needs the extra `dev` and Chromium. Runs are kept in the folder `--work`; existing ones are
reused.

python -m bench.screenshots
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import ROOT, run_timed

if TYPE_CHECKING:
    from playwright.sync_api import Browser

QUIET = ("callbacks.progress=null", "+trainer.enable_progress_bar=false")
RUN = ("experiment=demo", "data.generate.count=480", "trainer.max_epochs=20")
SWEEP = (
    "-m", "experiment=demo", "data.generate.count=480", "model.input_size=64",
    "trainer.max_epochs=5", "optimizer.lr=0.0001,0.003,0.01", "model.dropout=0,0.5", "seed=0,1",
)  # fmt: skip
# Page, name of the picture, width, height and theme.
PICTURES = (
    ("run/report.html", "report", 1366, 860, "light"),
    ("run/report.html", "report_phone", 390, 844, "dark"),
    ("sweep/leaderboard.html", "leaderboard", 1366, 860, "light"),
)


def main() -> None:
    """Trains what is missing and writes the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(prog="python -m bench.screenshots", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "screenshots")
    parser.add_argument("--to", type=Path, default=ROOT / "docs", help="folder of the pictures")
    asked = parser.parse_args()
    work = asked.work.absolute()
    smears = f"data.root={work / 'smears'}"
    commands = {
        "run": (*RUN, f"hydra.run.dir={work / 'run'}"),
        "sweep": (*SWEEP, f"hydra.sweep.dir={work / 'sweep'}"),
    }
    for name, words in commands.items():
        if not any((work / name).glob("*.html")):
            print(f"training: {name}", flush=True)
            command = [sys.executable, str(ROOT / "train.py"), *words, *QUIET, smears]
            run_timed(command, work / f"{name}.log")
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for page, name, width, height, theme in PICTURES:
            _take(browser, work / page, asked.to / f"{name}.png", (width, height), theme)
        browser.close()


def _take(browser: Browser, page: Path, file: Path, size: tuple[int, int], theme: str) -> None:
    """Writes the first screen of a page."""
    tab = browser.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=theme,  # type: ignore[arg-type]
    )
    tab.goto(page.as_uri())
    tab.screenshot(path=file)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
