"""The first screen of a run's report."""

from __future__ import annotations

from pathlib import Path

import bcd
from bcd.audit.page import verdict_parts
from bcd.data.splits.split import SUBSETS
from bcd.reporting.html import Link
from bcd.reporting.overview import (
    Overview,
    headline_tiles,
    matrix_panel,
    samples_panel,
    today,
)
from bcd.run_folder import RECORD
from bcd.training.facts import Facts
from bcd.training.provenance import how_split

_FILES = (
    "metrics.json", "predictions.csv", "audit.json", "config.yaml", "run.json", "split.csv",
    "pairs.csv", "model_card.md",
)  # fmt: skip


def overview(folder: Path, facts: Facts) -> Overview:
    """Verdict, headline figures, confusion matrix, a sample of each class, and origin.

    Args:
        folder: Of the run.
        facts: Of the run.
    """
    cfg, catalog, split = facts.cfg, facts.catalog, facts.split
    tested = split.indices("test")
    counts = {name: len(split.indices(name)) for name in SUBSETS}
    sizes = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    files = [Link(name, name) for name in _FILES]
    if (folder / RECORD).is_file():  # a trial of a sweep
        files.append(Link("leaderboard of the sweep", "../leaderboard.html"))
    return Overview(
        f"Training run, {today()}, bcd {bcd.__version__}",
        *verdict_parts(facts.checks),
        headline_tiles(facts.test, "on test"),
        [matrix_panel(facts.test, catalog.classes), samples_panel(catalog, tested)],
        [
            ("data", f"{catalog.root}, fingerprint {catalog.fingerprint()[:16]}"),
            ("images", f"{len(catalog.images)}: {sizes}"),
            ("split", how_split(cfg.split)),
            ("model", f"{cfg.model.title}, weights {cfg.model.weights}, head {cfg.head.kind}"),
        ],
        files,
    )
