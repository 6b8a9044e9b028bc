"""Compares a release with a single 70:30 run on slides that neither has seen.

Estimated slides are divided into five parts. Each time one part is left out of everything, both are
trained on the rest, and both are evaluated on the part that was left out.

python -m bench.releases data/smears --weights weights/mobilenet_v2-imagenet-bnfolded.pth
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.quality.profile import profile_images
from bcd.data.splits.split import Split, make_split
from bcd.storage import write_csv
from bench.measure import machine, run_timed
from bench.recipes import Shares, pool

PARTS = 5


def main() -> None:
    """Trains, evaluates, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.releases", description=__doc__)
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument("--recipe", default="best_frozen")
    parser.add_argument("--times", type=int, default=PARTS, help="number of parts to leave out")
    parser.add_argument("--work", type=Path, help="folder of the runs; existing ones are reused")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="bench_releases_"))
    print(f"{machine()}; runs in {work}", flush=True)
    found: dict[str, list[dict[str, Any]]] = {"single run": [], "release": []}
    for part in range(asked.times):
        folder = work / f"{asked.recipe}-{part}"
        rest, left_out = _write_tables(asked.data, part, folder)
        base = [f"data.root={rest}", f"model.weights={asked.weights}", "callbacks.progress=null"]
        base += ["+trainer.enable_progress_bar=false"]
        split = ["split=grouped", "split.groups=given"]
        commands = {
            "single run": [f"experiment={asked.recipe}", *split, *base],
            "release": ["experiment=release", f"recipe={asked.recipe}", *base],
        }
        for name, words in commands.items():
            found[name].append(_judge(folder / name.replace(" ", "_"), words, left_out))
        print(f"part {part}: {_errors(found['single run'][-1])} errors of the single run, "
              f"{_errors(found['release'][-1])} of the release", flush=True)  # fmt: skip
    _print(asked.recipe, found)


def _write_tables(root: str, part: int, folder: Path) -> tuple[Path, Path]:
    """Writes a CSV of the images to train on, and one of the part that is left out."""
    catalog = load_catalog(with_defaults(DataConfig, root=root))
    cfg = with_defaults(
        SplitConfig, kind="grouped", groups="auto", folds=PARTS, fold=part, seed=100
    )
    split = make_split(catalog, cfg, profile_images(catalog))
    files = (folder / "rest.csv", folder / "left_out.csv")
    for file, subsets in zip(files, (("train", "val"), ("test",)), strict=True):
        _write_table(file, catalog, split, subsets)
    return files


def _write_table(file: Path, catalog: Catalog, split: Split, subsets: Sequence[str]) -> None:
    chosen = [i for i, subset in enumerate(split.subsets) if subset in subsets]
    rows = []
    for i in chosen:
        image = catalog.images[i]
        path = (catalog.root / image.path).absolute()
        rows.append((str(path), catalog.classes[image.label], split.clusters[i]))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_csv(file, ("path", "class", "group"), rows)


def _judge(run: Path, words: Sequence[str], images: Path) -> dict[str, Any]:
    """Metrics on images of a run that is made unless it exists."""
    ckpt = run / "checkpoints" / "best.ckpt"
    if not (run / "report.html").is_file():
        command = [sys.executable, "train.py", *words, f"hydra.run.dir={run}"]
        run_timed(command, run.with_suffix(".log"))
    folder = run.parent / f"{run.name}_left_out"
    if not (folder / "metrics.json").is_file():
        command = [sys.executable, "eval.py", f"ckpt={ckpt}", f"data.root={images}"]
        run_timed([*command, f"run_dir={folder}"], folder.with_suffix(".log"))
    parts: dict[str, dict[str, Any]] = json.loads((folder / "metrics.json").read_text("utf-8"))
    return parts["all"]


def _errors(metrics: dict[str, Any]) -> int:
    matrix = np.array(metrics["confusion"])
    return int(matrix.sum() - np.trace(matrix))


def _print(recipe: str, found: dict[str, list[dict[str, Any]]]) -> None:
    header = "recipe | model | n | errors | accuracy | unsafe, of malignant | unsafe, of benign"
    header += " | referred | ECE, mean of parts"
    print(f"\n| {header} |\n|---|---|{'---:|' * 7}")
    for name, parts in found.items():
        shares: Shares = pool(parts)
        cells = [shares.accuracy, shares.unsafe_malignant, shares.unsafe_benign, shares.referred]
        cells.append(float(np.mean([part["ece"] for part in parts])))
        shown = ["" if value is None else f"{value:.3f}" for value in cells]
        errors = sum(map(_errors, parts))
        print(f"| `{recipe}` | {name} | {shares.n} | {errors} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
