"""How much of the stained area the audit's sources tell, on drawn smears and on real ones.

python -m bench.background [data/smears] [--drawn 600]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.audit.sources import BACKGROUND, COLOUR, PATCHES
from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data.load import load_catalog
from bcd.data.quality.image_statistics import describe, image_statistics
from bcd.data.reading import decode_image
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bench.measure import machine

SLIDES = 40
COLUMNS = {BACKGROUND: "background_quantiles", PATCHES: "patches", COLOUR: "quantiles"}


def main() -> None:
    """Prints R2 over five random folds of a forest on each source, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.background", description=__doc__)
    parser.add_argument("root", type=Path, nargs="?", help="of real smears")
    parser.add_argument("--drawn", type=int, default=600, help="number of drawn smears")
    asked = parser.parse_args()
    print(f"{machine()}\n\n| images | source | R2 | n |\n|---|---|---:|---:|")
    smears = [
        draw_smear(CLASS_NAMES[i % 4], slide=i // 4 % SLIDES, index=i) for i in range(asked.drawn)
    ]
    truth = np.asarray([_stained(smear) for smear in smears])
    for name, shown in (("drawn", smears), ("drawn, blur and JPEG", [_blurred(s) for s in smears])):
        rows = [describe(image) for image in shown]
        statistics = {key: np.stack([row[key] for row in rows]) for key in COLUMNS.values()}
        for line in _explained(statistics, truth):
            print(f"| {name} | {line}", flush=True)
    if asked.root:
        seen = image_statistics(load_catalog(with_defaults(DataConfig, root=str(asked.root))))
        masked = seen.stained.astype(np.float64)  # the truth is not known; this is what is masked
        for line in _explained({key: getattr(seen, key) for key in COLUMNS.values()}, masked):
            print(f"| real | {line}", flush=True)


def _stained(image: NDArray[np.uint8]) -> float:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float((grey < 0.85 * np.quantile(grey, 0.99)).mean())


def _blurred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    soft = np.asarray(cv2.GaussianBlur(image, (0, 0), 1.2), np.uint8)
    _, code = cv2.imencode(".jpg", soft[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    return decode_image(code.tobytes())


def _explained(
    statistics: Mapping[str, NDArray[np.float32]], wanted: NDArray[np.float64]
) -> Iterator[str]:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(5, shuffle=True, random_state=0)
    for source, key in COLUMNS.items():
        whole = np.isfinite(statistics[key]).all(axis=1)
        truth, values = wanted[whole], statistics[key][whole]
        forest = RandomForestRegressor(60, random_state=0, min_samples_leaf=3, n_jobs=-1)
        missed = truth - cross_val_predict(forest, values, truth, cv=folds)
        yield f"{source} | {1 - np.square(missed).mean() / truth.var():.2f} | {len(truth)} |"


if __name__ == "__main__":
    main()
