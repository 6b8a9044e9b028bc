"""Measures how much of the accuracy comes from white cells, and how much from the rest of a slide.

The paper's recipe is trained on whole images, on white cells alone, on everything but white cells,
and on crops of cells, each with random splits and with contiguous blocks of files. It also predicts
normal cells of another hospital, every one of which is benign.

python -m bench.roi data/smears data/normal-cells --weights weights/mobilenet_v2.pth
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bcd
from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig, DataConfig
from bcd.data.load import expand_inputs, load_catalog
from bcd.data.site_profile import measure_site, write_profile
from bcd.data.splits.split import recorded_indices
from bcd.data.views import Augmenter, ImageViews
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.robustness import evaluate_suite
from bcd.inference.checkpoint import load_checkpoint
from bcd.run_folder import find_checkpoint
from bench.measure import machine, run_timed

RECIPES: Mapping[str, Sequence[str]] = {
    "image": ["data.roi=image"],
    "background": ["data.roi=background"],
    "mask": ["data.roi=mask"],
    "cells, mean": ["data.roi=cells"],
    "cells, noisy-or": ["data.roi=cells", "model.cell_pooling=noisy_or"],
    "cells, attention": ["data.roi=cells", "model.cell_pooling=attention"],
}
SPLITS = ("stratified", "blocked")
_EVERY = 8  # of the other hospital's images
_EVERY_TEST = 4  # of the test images, under corruptions
_HEADER = (
    "roi", *(f"{split}: {name}" for split in SPLITS for name in ("accuracy", "balanced accuracy")),
    "corruptions: mean", "worst", "called malignant", "referred", "called malignant, scaled",
    "referred, scaled",
)  # fmt: skip


def main() -> None:
    """Trains, evaluates, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.roi", description=__doc__)
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("cells", help="normal cells of another hospital, in one folder per kind")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument("--seeds", type=int, default=3, help="number of splits of each kind")
    parser.add_argument("--rois", default=",".join(RECIPES).replace(", ", " "))
    parser.add_argument("--work", type=Path, help="folder of the runs; existing ones are reused")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="bench_roi_"))
    print(f"{machine()}; runs in {work}", flush=True)
    work.mkdir(parents=True, exist_ok=True)
    files, profile = _site(asked.cells, work)
    base = [f"data.root={asked.data}", f"model.weights={asked.weights}"]
    print(f"| {' | '.join(_HEADER)} |\n|---|{'---:|' * (len(_HEADER) - 1)}", flush=True)
    for name, words in RECIPES.items():
        if name.replace(", ", " ") not in asked.rois.split(","):
            continue
        runs = {
            split: [
                _train(work, name, [*base, *words, f"split={split}"], split, seed)
                for seed in range(asked.seeds)
            ]
            for split in SPLITS
        }
        cells = [_metrics_of(runs[split]) for split in SPLITS]
        contiguous = runs["blocked"]
        foreign = [_foreign(contiguous, files, match) for match in ({}, {"profile": profile})]
        parts = [*cells[0], *cells[1], *_corrupted(contiguous[0]), *foreign[0], *foreign[1]]
        print(f"| {' | '.join([name, *parts])} |", flush=True)


def _site(folder: str, work: Path) -> tuple[list[Path], str]:
    """Every eighth image, and a profile of others."""
    files = expand_inputs([folder])
    others = work / "profiled"
    others.mkdir(exist_ok=True)
    for number, file in enumerate(files[5::10]):
        (others / f"{number}{file.suffix}").write_bytes(file.read_bytes())
    profile = work / "site.json"
    write_profile(profile, measure_site(str(others), 500, 0))
    return files[::_EVERY], str(profile)


def _train(work: Path, name: str, words: Sequence[str], split: str, seed: int) -> Path:
    folder = work / f"{name.replace(', ', '_')}-{split}-{seed}"
    if not (folder / "metrics.json").is_file():
        arguments = [sys.executable, "train.py", "experiment=paper", *words]
        arguments += [f"split.seed={seed}", f"run_dir={folder}"]
        run_timed(arguments, work / "logs" / f"{folder.name}.txt")
    return folder


def _metrics_of(runs: Sequence[Path]) -> list[str]:
    """Mean and range over the splits of accuracy and balanced accuracy on test."""
    tests = [json.loads((run / "metrics.json").read_text())["test"] for run in runs]
    return [_mean([test[name] for test in tests]) for name in ("accuracy", "balanced_accuracy")]


def _corrupted(run: Path) -> list[str]:
    """Mean and lowest accuracy over the standard corruptions, on every fourth test image."""
    network, card = load_checkpoint(find_checkpoint(str(run)))
    catalog = load_catalog(DataConfig(**card.config["data"]), card.classes)
    indices = recorded_indices(catalog, card.split["test"])[::_EVERY_TEST]
    augmenter = Augmenter(with_defaults(AugmentConfig), 0)
    source = ImageViews.of(
        catalog, card.input_size, augmenter, card.mask_scale_bar, card.view_names, roi=card.roi
    )
    policy, device = DecisionPolicy.from_plain(card.policy), torch.device("cpu")
    rows = evaluate_suite("standard", network, policy, source, indices, "auto", device)
    values = [float(row["accuracy"]) for row in rows[1:]]
    return [f"{np.mean(values):.3f}", f"{min(values):.3f}"]


def _foreign(runs: Sequence[Path], files: Sequence[Path], match: dict[str, Any]) -> list[str]:
    """Share of benign images of another site that is called malignant, and that is referred."""
    called, referred = [], []
    for run in runs:
        found = bcd.load(run, site=match or None).predict(files)
        called.append(np.mean([bool(row["malignant"]) for row in found]))
        referred.append(np.mean([row["refer"] for row in found]))
    return [_mean(called), _mean(referred)]


def _mean(values: Sequence[Any]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
