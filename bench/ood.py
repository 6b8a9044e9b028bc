"""Compares out-of-distribution scores: shares of own and of foreign images that each refers.

python -m bench.ood data/smears --weights weights/mobilenet_v2-imagenet-bnfolded.pth
    [--site Barcelona=data/pbc ...]

Own images are split by estimated slide groups, once for each of several split seeds. Every score is
fitted to train and val and gets its limit as `fit_detector` sets it, for `decision.ood` of own
images. Test and foreign images are not used for this. The detector needs no training, so it is the
one of every recipe that starts from these weights. The photographs need scikit-image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.compose import with_defaults
from bcd.config.decision import DecisionConfig
from bcd.config.schema import DataConfig, ModelConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.quality.profile import profile_images
from bcd.data.reading import fit, read_image
from bcd.data.splits.split import make_split
from bcd.evaluation.ood import assign_folds, cross_fitted_limit
from bcd.features.engines import Engine, make_engine
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork
from bench.measure import machine
from bench.ood_images import changed, foreign
from bench.ood_scores import KEPT, SCORES, Fit, Seen

_CHUNK = 256


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.ood", description=__doc__)
    parser.add_argument("root", help="of own images")
    parser.add_argument("--weights", required=True, help="as model.weights")
    parser.add_argument("--backbone", default="mobilenet_v2", help="as model.backbone")
    parser.add_argument("--site", nargs="*", default=[], help="NAME=FOLDER of another hospital")
    parser.add_argument("--splits", type=int, default=5, help="number of split seeds, from 0")
    parser.add_argument("--count", type=int, default=200, help="images of each made kind")
    asked = parser.parse_args()
    model = with_defaults(ModelConfig, backbone=asked.backbone, weights=asked.weights)
    describe = _Describer(model)
    catalog = load_catalog(with_defaults(DataConfig, root=asked.root), keep=(model.input_size,))
    labels = np.asarray(catalog.labels)
    own = describe.all(_own(catalog, model.input_size), labels)
    sites = {name: Path(folder) for name, _, folder in (s.partition("=") for s in asked.site)}
    others = {
        name: describe.all(images())
        for name, images in foreign(model.input_size, asked.count, sites).items()
    }
    versions = _changed(catalog, model.input_size, describe)
    sets = {"own test images": own, **versions, **others}
    print(f"{machine()}; {asked.backbone}, {asked.weights}; {asked.splits} splits\n")
    print(f"| score | {' | '.join(sets)} |\n|---|{'---:|' * len(sets)}")
    print(f"| images | {' | '.join(str(len(seen.labels)) for seen in sets.values())} |")
    splits = _splits(catalog, asked.splits)
    for name, fit_score in SCORES.items():
        found = _shares(fit_score, splits, own, versions, others)
        cells = [f"{100 * float(np.mean(found[kind])):.1f}" for kind in sets]
        bold = "**" if name == KEPT else ""
        print(f"| {bold}{name}{bold} | {' | '.join(cells)} |", flush=True)


class _Describer:
    """Computes what scores may use of images.

    Args:
        model: The `model` group, of a frozen backbone.
    """

    def __init__(self, model: ModelConfig) -> None:
        network = SmearNetwork(build_backbone(model), 2, model).eval()
        device, size = torch.device("cpu"), model.input_size
        self._engines: list[Engine] = [
            make_engine("onnxruntime", part, size, device)
            for part in (network.descriptor, network.prefix)
        ]

    def all(
        self, images: Iterable[NDArray[np.uint8]], labels: NDArray[np.int64] | None = None
    ) -> Seen:
        """Describes images; those without labels have class 0."""
        source, parts = iter(images), []
        with ThreadPoolExecutor(self._engines[0].threads) as pool:
            while chunk := list(islice(source, _CHUNK)):
                parts.append(list(pool.map(self._one, chunk)))
        rows = [row for part in parts for row in part]
        descriptors, pooled = (np.concatenate(column) for column in zip(*rows, strict=True))
        return Seen(descriptors, pooled, np.zeros(len(rows), int) if labels is None else labels)

    def _one(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [engine.forward(pixels[None]) for engine in self._engines]


def _own(catalog: Catalog, size: int) -> Iterator[NDArray[np.uint8]]:
    return (fit(read_image(catalog.root / image.path), size) for image in catalog.images)


def _changed(catalog: Catalog, size: int, describe: _Describer) -> dict[str, Seen]:
    """Changed versions of all own images; of these, a split uses those of its test images."""
    names = [*changed(np.zeros((size, size, 3), np.uint8))]
    every = describe.all(v for pixels in _own(catalog, size) for v in changed(pixels).values())
    return {name: every[place :: len(names)] for place, name in enumerate(names)}


class _Own(NamedTuple):
    """Own images of a split: train and val with their folds, and test."""

    fitted: NDArray[np.int64]
    folds: NDArray[np.int64]
    tested: list[int]


def _splits(catalog: Catalog, count: int) -> list[_Own]:
    """Splits by estimated slide groups."""
    profile, made = profile_images(catalog), []
    for seed in range(count):
        cfg = with_defaults(SplitConfig, kind="grouped", groups="auto", seed=seed)
        split = make_split(catalog, cfg, profile)
        fitted = np.asarray([*split.indices("train"), *split.indices("val")])
        folds = assign_folds(len(fitted), [split.clusters[i] for i in fitted])
        made.append(_Own(fitted, folds, split.indices("test")))
    return made


def _shares(
    fit_score: Fit,
    splits: Iterable[_Own],
    own: Seen,
    versions: Mapping[str, Seen],
    others: Mapping[str, Seen],
) -> dict[str, list[float]]:
    """Shares beyond the limit by set of images, for each split."""
    found: dict[str, list[float]] = {}
    share = with_defaults(DecisionConfig).ood
    for split in splits:
        score = fit_score(own[split.fitted])
        limit = cross_fitted_limit(fit_score, own[split.fitted], split.folds, share)
        assert limit is not None
        judged = {"own test images": own[split.tested], **others}
        judged |= {kind: seen[split.tested] for kind, seen in versions.items()}
        for kind, seen in judged.items():
            found.setdefault(kind, []).append(float((score(seen) > limit).mean()))
    return found


if __name__ == "__main__":
    main()
