"""Evaluates a network on pictures of a catalog, and writes what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from bcd.data.catalog import Catalog
from bcd.data.reading import read_picture
from bcd.evaluation.collect import collect_logits, softmax
from bcd.evaluation.figures import draw_confusion, draw_mistakes, save_figure
from bcd.evaluation.metrics import HEADLINE, compute_metrics
from bcd.evaluation.predictions import Prediction, write_predictions
from bcd.storage import write_text


@dataclass(frozen=True)
class Result:
    """What came out on one set of pictures: its figures and each picture's prediction."""

    metrics: dict[str, Any]
    predictions: tuple[Prediction, ...]


def evaluate(
    network: nn.Module,
    loader: DataLoader[Any],
    catalog: Catalog,
    indices: Sequence[int],
    device: torch.device,
    description: str = "",
) -> Result:
    """Evaluates a network.

    Args:
        network: Maps the loader's batches to logits.
        loader: Gives the pictures of `indices`, in that order.
        catalog: Names the pictures and classes.
        indices: Of the pictures, in the catalog.
        device: Where to compute.
        description: Text beside the progress bar; no bar if empty.
    """
    logits, labels = collect_logits(network, loader, device, description)
    probabilities = softmax(logits)
    metrics = compute_metrics(probabilities, labels, catalog.classes, catalog.benign)
    predictions = tuple(
        Prediction(catalog.pictures[i].path, catalog.classes[label], tuple(map(float, row)))
        for i, label, row in zip(indices, labels, probabilities, strict=True)
    )
    return Result(metrics, predictions)


def write_results(run_dir: Path, catalog: Catalog, results: Mapping[str, Result]) -> None:
    """Writes `metrics.json`, and of the last part named the predictions and figures."""
    metrics = {name: result.metrics for name, result in results.items()}
    write_text(run_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    name, result = list(results.items())[-1]
    write_predictions(
        run_dir / "predictions.csv", result.predictions, catalog.classes, catalog.benign
    )
    figures = run_dir / "figures"
    title = f"{name}, n = {result.metrics['n']}"
    figure = draw_confusion(result.metrics["confusion"], catalog.classes, title)
    save_figure(figure, figures / "confusion_matrix.png")
    mistakes = draw_mistakes(
        result.predictions,
        catalog.classes,
        lambda i: read_picture(catalog.root / result.predictions[i].path),
    )
    if mistakes is not None:
        save_figure(mistakes, figures / "mistakes.png")


def metric_rows(results: Mapping[str, Result]) -> list[list[str]]:
    """Rows for a table of headline figures: a figure's name, then its value on each part."""
    names = [*HEADLINE]
    if all("malignant_sensitivity" in r.metrics for r in results.values()):
        names += ["malignant_sensitivity", "malignant_specificity"]
    rows = [[n.replace("_", " "), *_cells(results, n)] for n in names]
    rows.append(["pictures", *_cells(results, "n")])
    if any(r.metrics.get("leaked") for r in results.values()):
        rows.append(["accuracy without leaked", *_cells(results, "accuracy_without_leaked")])
        rows.append(["leaked pictures", *_cells(results, "leaked")])
    return rows


def _cells(results: Mapping[str, Result], name: str) -> list[str]:
    """A figure of each part, empty where a part has none."""
    values = [result.metrics.get(name) for result in results.values()]
    return ["" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in values]
