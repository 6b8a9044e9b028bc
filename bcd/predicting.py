"""Predicts files with a checkpoint and writes `predictions.csv` or JSON."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bcd.config_programs import PredictConfig
from bcd.console import say, show_table, track
from bcd.data.catalog import expand_inputs
from bcd.errors import ConfigError
from bcd.evaluation.collect import choose_device
from bcd.evaluation.predictions import Prediction, write_predictions
from bcd.inference.checkpoint import Card, find_checkpoint, load_checkpoint
from bcd.inference.predictor import predict_files
from bcd.storage import typed_path


def predict(cfg: PredictConfig) -> list[Prediction]:
    """Predicts what `input` names and writes the rows.

    Args:
        cfg: Checked configuration.

    Returns:
        A prediction for each file, in order; those that could not be read carry an error.

    Raises:
        BcdError: No checkpoint, none with a judge, or no such input.
    """
    inputs = [cfg.input] if isinstance(cfg.input, str) else cfg.input
    if not isinstance(inputs, list) or not all(isinstance(i, str) for i in inputs) or not inputs:
        raise ConfigError("input is missing: give input=<file, folder or glob>, or input=[a,b]")
    file = typed_path(cfg.output or f"{cfg.run_dir}/predictions.{cfg.format}")
    if file.suffix.lower() not in (".csv", ".json"):
        raise ConfigError(f"output={cfg.output}: must end in .csv or .json")
    paths = expand_inputs(inputs)[: cfg.limit]
    network, card = load_checkpoint(find_checkpoint(cfg.ckpt), cfg.uncalibrated)
    device = choose_device(cfg.device)
    made = predict_files(network, card, paths, device, cfg.batch_size, cfg.num_workers)
    predictions = list(track(made, "Predicting", len(paths)))
    write_predictions(file, predictions, card.classes)
    _tell(predictions, card, file)
    return predictions


def _tell(predictions: list[Prediction], card: Card, file: Path) -> None:
    failed = [p for p in predictions if p.error]
    infinite = sum(p.best is None for p in predictions) - len(failed)
    said = Counter(card.classes[p.best] for p in predictions if p.best is not None)
    rows = [[name, str(said[name])] for name in card.classes]
    referred = sum(bool(p.refer) for p in predictions if p.best is not None)
    rows += [["of these referred", str(referred)], ["could not be read", str(len(failed))]]
    if infinite:
        rows.append(["no finite answer", str(infinite)])
    show_table("Predicted", ["class", "pictures"], rows)
    for prediction in failed[:5]:
        say(f"could not be read: {prediction.path}: {prediction.error}")
    if card.judge is None:
        say("warning: uncalibrated: nothing was decided on val, so every picture is referred")
    say(f"predictions: {file}")
