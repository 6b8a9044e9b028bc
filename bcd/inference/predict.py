"""Predicts files with a checkpoint and writes `predictions.csv` or JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bcd.config.programs import PredictConfig
from bcd.console import printable, say, show_table, track
from bcd.data.load import expand_inputs
from bcd.errors import ConfigError
from bcd.evaluation.collect import choose_device
from bcd.evaluation.predictions import Prediction
from bcd.inference.checkpoint import find_checkpoint, load_checkpoint
from bcd.inference.predictor import predict_files
from bcd.inference.row_writer import RowWriter
from bcd.storage import typed_path


@dataclass
class Tally:
    """What is remembered of predictions, however many there are.

    Attributes:
        classes: Names of the classes.
        said: How many images were said to be of each class, by its index.
        referred: How many of these are referred.
        infinite: How many have no answer because it is not finite.
        failed: How many could not be read.
        first_failed: The first few of these.
    """

    classes: Sequence[str]
    said: Counter[int] = field(default_factory=Counter)
    referred: int = 0
    infinite: int = 0
    failed: int = 0
    first_failed: list[Prediction] = field(default_factory=list)

    @property
    def unanswered(self) -> int:
        """How many got no answer."""
        return self.failed + self.infinite

    def add(self, prediction: Prediction) -> None:
        """Counts a prediction."""
        if prediction.best is None and not prediction.error:
            self.infinite += 1
            return
        if prediction.best is None:
            self.failed += 1
            self.first_failed += [prediction][: 5 - len(self.first_failed)]
            return
        self.said[prediction.best] += 1
        self.referred += bool(prediction.refer)


def predict(cfg: PredictConfig, each: Callable[[Prediction], object] | None = None) -> Tally:
    """Predicts what `input` names, writes a row for each file as it is done, and sums up.

    Args:
        cfg: Checked configuration.
        each: Called with every prediction, in order, when its row is written.

    Returns:
        Counts only, so that memory does not grow with the number of files.

    Raises:
        BcdError: No checkpoint, none with a decision policy, no such input, or an output that
            cannot be written.
    """
    inputs = [cfg.input] if isinstance(cfg.input, str) else cfg.input
    if not isinstance(inputs, list) or not all(isinstance(i, str) for i in inputs) or not inputs:
        raise ConfigError("input is missing: give input=<file, folder or glob>, or input=[a,b]")
    file = typed_path(cfg.output or f"{cfg.run_dir}/predictions.{cfg.format}")
    if file.suffix.lower() not in (".csv", ".json"):
        raise ConfigError(f"output={cfg.output}: must end in .csv or .json")
    paths = expand_inputs(inputs)[: cfg.limit]
    with RowWriter(file) as rows:
        network, card = load_checkpoint(find_checkpoint(cfg.ckpt), cfg.uncalibrated)
        rows.begin(card.classes)
        tally = Tally(card.classes)
        device = choose_device(cfg.device)
        made = predict_files(network, card, paths, device, cfg.batch_size, cfg.num_workers)
        for batch in track(made, "Predicting", len(paths), len):
            rows.write(batch)
            for prediction in batch:
                tally.add(prediction)
                if each is not None:
                    each(prediction)
    _tell(tally, file)
    if card.policy is None:
        say("warning: uncalibrated: nothing was decided on val, so every image is referred")
    return tally


def _tell(tally: Tally, file: Path) -> None:
    rows = [[name, str(tally.said[number])] for number, name in enumerate(tally.classes)]
    rows += [["of these referred", str(tally.referred)], ["could not be read", str(tally.failed)]]
    if tally.infinite:
        rows.append(["no finite answer", str(tally.infinite)])
    show_table("Predicted", ["class", "images"], rows)
    for prediction in tally.first_failed:
        say(f"could not be read: {printable(prediction.path)}: {prediction.error}")
    say(f"predictions: {file}")
