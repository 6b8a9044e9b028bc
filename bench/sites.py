"""Measures what matching images of a site to the training images does to a checkpoint's answers.

python -m bench.sites outputs/paper/<run> data/normal-cells

Two kinds of sites are used: test images of the run, shown smaller or larger by a known factor, and
normal cells of another hospital, in one folder per kind. A profile is measured on the images
themselves, which needs no classes; of the cells, on others than those that are predicted.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import bcd
from bcd.config.programs import SITE_COLOURS
from bcd.config.schema import DataConfig
from bcd.console import show_table
from bcd.data.load import expand_inputs, load_catalog
from bcd.data.matching import Match
from bcd.data.quality.appearance import SIDE, summarize
from bcd.data.reading import read_image
from bcd.data.site_profile import measure_site, write_profile
from bcd.data.splits.split import recorded_indices
from bcd.inference.checkpoint_model import CheckpointModel
from bcd.inference.predictor import Predictor
from bcd.inference.site import tell_differences

_FACTORS = (1.0, 0.7, 1.5, 2.0)
_HEADER = ("images", "matched", "n", "differs", "accuracy", "malignant", "referred", "unsafe")


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sites", description="Effect of matching a site's images."
    )
    parser.add_argument("ckpt", help="checkpoint or run folder")
    parser.add_argument("cells", help="normal cells of another hospital")
    parser.add_argument("--every", type=int, default=12, help="use every n-th test image")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        plain = bcd.load(asked.ckpt)
        for factor in _FACTORS:
            truth = _write_scaled(plain, Path(folder) / f"{factor}", factor, asked.every)
            matches: list[dict[str, Any]] = [{}]
            if factor != 1:
                profile = _profile(str(Path(folder) / f"{factor}"), Path(folder))
                matches.append({"profile": profile})
            for match in matches:
                rows.append(_row(f"test x {factor}", asked.ckpt, list(truth), match, truth))
        files = expand_inputs([asked.cells])
        (Path(folder) / "cells").mkdir()
        for file in files[5::10]:
            (Path(folder) / "cells" / file.name).write_bytes(file.read_bytes())
        profile = _profile(str(Path(folder) / "cells"), Path(folder))
        colours = [{"profile": profile, "colour": colour} for colour in SITE_COLOURS]
        without: dict[str, Any] = {"profile": profile, "colour": "white_point", "scale": False}
        for match in ({}, *colours, without):
            rows.append(_row("cells", asked.ckpt, files[::20], match, {}))
    show_table(asked.ckpt, _HEADER, rows)


def _write_scaled(model: Predictor, folder: Path, factor: float, every: int) -> dict[Path, str]:
    """Writes test images at another scale; returns their classes by file."""
    assert isinstance(model.model, CheckpointModel)
    card = model.model.card
    catalog = load_catalog(DataConfig(**card.config["data"]), model.classes)
    truth = {}
    for index in recorded_indices(catalog, card.split["test"])[::every]:
        image = catalog.images[index]
        pixels = Match(factor, None).prepare(read_image(catalog.root / image.path), SIDE, False)
        file = folder / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), np.ascontiguousarray(pixels[:, :, ::-1]))
        truth[file] = model.classes[image.label]
    return truth


def _profile(root: str, folder: Path) -> str:
    file = folder / f"{Path(root).name}.json"
    write_profile(file, measure_site(root, 500, 0))
    return str(file)


def _row(
    name: str, ckpt: str, files: Sequence[Path], match: Mapping[str, Any], truth: dict[Path, str]
) -> list[str]:
    """Answers for images of one site; without known classes all are benign."""
    model = bcd.load(ckpt, site=match or None)
    found = model.predict(files, num_workers=0)
    benign = model.classes[model.facts.benign or 0]
    right = [row["prediction"] == truth.get(Path(row["path"])) for row in found]
    malignant = [truth.get(Path(row["path"]), benign) != benign for row in found]
    unsafe = sum(
        row["malignant"] != true and not row["refer"]
        for row, true in zip(found, malignant, strict=True)
    )
    differs = tell_differences(model.facts, summarize(model.looks), model.match)
    matched = ", ".join(f"{k}={v}" for k, v in match.items() if k != "profile") or (
        "scale" if match else "no"
    )
    return [
        name, matched, str(len(found)), "; ".join(line.partition(" (")[0] for line in differs),
        f"{np.mean(right):.3f}" if truth else "", str(sum(r["malignant"] for r in found)),
        f"{np.mean([r['refer'] for r in found]):.3f}", str(unsafe),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
