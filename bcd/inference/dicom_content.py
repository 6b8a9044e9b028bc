"""What DICOM objects of bcd predict say about the model and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import bcd
from bcd.config.programs import PredictConfig
from bcd.evaluation.predictions import Prediction
from bcd.inference.exported import ExportedModel
from bcd.inference.predictor import Predictor
from bcd.run_folder import find_checkpoint
from bcd.storage import file_sha256, typed_path

if TYPE_CHECKING:
    from bcd.interop.dicom.content import Answer, Producer


def producer_of(cfg: PredictConfig, predictor: Predictor) -> Producer:
    """The model, as objects name it."""
    from bcd.interop.dicom.content import Producer

    model = predictor.model
    if isinstance(model, ExportedModel):
        file = typed_path(str(cfg.model))
        name, version = file.name, model.content.get("bcd_version", "")
    else:
        file = find_checkpoint(str(cfg.ckpt))
        run = file.parent.parent
        name = run.name if file.parent.name == "checkpoints" else file.name
        version = model.card.versions.get("bcd", "")  # type: ignore[attr-defined]
    classes = tuple(predictor.classes)
    card = model.facts.card_sha256
    return Producer(name, str(version), file_sha256(file), card, classes, bcd.__version__)


def answer_of(prediction: Prediction, classes: Sequence[str], sha256: str) -> Answer:
    """What objects say about an image.

    Args:
        prediction: Of the image.
        classes: Names of the classes.
        sha256: Of the image's file.
    """
    from bcd.interop.dicom.content import Answer

    best = prediction.best
    return Answer(
        number=1,
        sha256=sha256,
        predicted=None if best is None else classes[best],
        probabilities=prediction.probabilities,
        malignant=prediction.malignant,
        prediction_set=tuple(classes[number] for number in prediction.prediction_set),
        refer=bool(prediction.refer),
        reasons=prediction.refer,
        ood_score=prediction.ood_score,
        error="" if best is not None else "the model's output is not a finite number",
    )
