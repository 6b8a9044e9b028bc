"""Small releases of generated smears."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.helpers.figures import save_placeholders
from tests.helpers.forking import CAN_FORK
from tests.helpers.harness import SMALL, script

FOLDS = 3
# A frozen random network with a fitted head, three folds of whole simulated slides.
FROZEN = (
    *SMALL, "experiment=release", "model.unfreeze=0", "augment.views=2", "data.generate.count=96",
    "data.generate.slides=6", f"split.folds={FOLDS}",
)  # fmt: skip
# The same with trained blocks, by gradient descent.
TRAINED = (*FROZEN, "recipe=paper", "model.unfreeze=all", "data.batch_size=8")


def released(
    base: Path,
    name: str,
    *words: str,
    prepare: Callable[[], None] | None = None,
    figures: bool = False,
) -> tuple[Path, int, str]:
    """Runs a release; returns its folder, the exit status and what it printed."""
    folder = base / name
    done = script(
        "train.py", *words, f"data.root={base}/images", f"hydra.run.dir={folder}",
        prepare=partial(_prepare, prepare, figures) if CAN_FORK else None,
    )  # fmt: skip
    return folder, done.returncode, done.stderr


def _prepare(prepare: Callable[[], None] | None, figures: bool) -> None:
    if not figures:
        save_placeholders()
    if prepare is not None:
        prepare()


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found
