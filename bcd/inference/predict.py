"""Predicts files with a checkpoint and writes `predictions.csv` or JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bcd.config.input_views import CELLS
from bcd.config.programs import PredictConfig
from bcd.console import printable, say, show_table, track
from bcd.data.load import expand_inputs
from bcd.data.quality.appearance import summarize
from bcd.errors import ConfigError
from bcd.evaluation.predictions import Prediction
from bcd.inference.predictor import Predictor, load_model
from bcd.inference.row_writer import RowWriter
from bcd.inference.site import describe_match, tell_differences
from bcd.storage import typed_path

if TYPE_CHECKING:
    from bcd.inference.explanations import Explanations


@dataclass
class Tally:
    """Counts of predictions; its size does not depend on their number.

    Attributes:
        classes: Names of the classes.
        predicted: Number of images predicted as each class, by its index.
        referred: Number of predicted images that are referred.
        infinite: Number of images whose answer is not finite.
        failed: Number of images that could not be read.
        first_failed: The first few of these.
    """

    classes: Sequence[str]
    predicted: Counter[int] = field(default_factory=Counter)
    referred: int = 0
    infinite: int = 0
    failed: int = 0
    first_failed: list[Prediction] = field(default_factory=list)

    @property
    def unanswered(self) -> int:
        """Number of images without an answer."""
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
        self.predicted[prediction.best] += 1
        self.referred += bool(prediction.refer)


def predict(cfg: PredictConfig, each: Callable[[Prediction], object] | None = None) -> Tally:
    """Predicts the files of `input`, writes a row for each when it is done, and prints a summary.

    Args:
        cfg: Checked configuration.
        each: Called with every prediction, in order, after its row is written.

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
        predictor = Predictor(
            load_model(
                ckpt=cfg.ckpt,
                model=cfg.model,
                uncalibrated=cfg.uncalibrated,
                device=cfg.device,
                verify=cfg.verify,
            ),
            cfg.site,
        )
        pictures = _pictures(cfg, predictor, file, paths)
        rows.begin(predictor.classes, pictures is not None)
        tally = Tally(predictor.classes)
        answers = predictor.answers(paths, cfg.batch_size, cfg.num_workers)
        doing = "Predicting" if pictures is None else "Predicting and explaining"
        for batch in track(answers, doing, len(paths), len):
            made = [p for p, _ in batch] if pictures is None else pictures.draw(batch)
            rows.write(made)
            for prediction in made:
                tally.add(prediction)
                if each is not None:
                    each(prediction)
    _tell(tally, file)
    if pictures is not None:
        _tell_pictures(pictures, predictor.facts.input_views[0].roi == CELLS)
    for line in describe_match(predictor.match):
        say(line)
    tell_differences(predictor.facts, summarize(predictor.looks), predictor.match)
    if predictor.facts.recalibration is not None:
        say(f"recalibrated for {predictor.facts.recalibration['site']}, for its images only")
    if not predictor.facts.calibrated:
        say("warning: uncalibrated: nothing was decided on val, so every image is referred")
    return tally


def _pictures(
    cfg: PredictConfig, predictor: Predictor, file: Path, paths: Sequence[Path]
) -> Explanations | None:
    if not cfg.explain:
        return None
    from bcd.inference.checkpoint_model import CheckpointModel
    from bcd.inference.explanations import Explanations

    assert isinstance(predictor.model, CheckpointModel)  # as checked with the configuration
    method = cfg.explain if isinstance(cfg.explain, str) else "auto"
    return Explanations(predictor.model, method, file, paths)


def _tell_pictures(pictures: Explanations, of_cells: bool) -> None:
    if not pictures.written:
        return
    say(f"explanations ({pictures.method}): {pictures.written} in {pictures.folder}")
    if pictures.empty:
        why = "no place speaks for the predicted class"
        if of_cells:
            why += ", or no white cell was found"
        say(f"warning: explanations without any evidence: {pictures.empty} ({why})")


def _tell(tally: Tally, file: Path) -> None:
    rows = [[name, str(tally.predicted[number])] for number, name in enumerate(tally.classes)]
    rows += [["referred", str(tally.referred)], ["could not be read", str(tally.failed)]]
    if tally.infinite:
        rows.append(["no finite answer", str(tally.infinite)])
    show_table("Predicted", ["class", "images"], rows)
    for prediction in tally.first_failed:
        say(f"could not be read: {printable(prediction.path)}: {prediction.error}")
    say(f"predictions: {file}")
