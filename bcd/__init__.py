"""bcd: blood-smear image classification, and the evidence for its accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcd.config.environment import send_nothing

if TYPE_CHECKING:
    from bcd.inference.predictor import Predictor

__version__ = "0.1.0"

send_nothing()  # before any module of bcd imports a library with telemetry


def load(
    ckpt: str | Path,
    *,
    uncalibrated: bool = False,
    device: str = "auto",
    site: Mapping[str, Any] | None = None,
    verify: str | None = None,
) -> Predictor:
    """Loads a checkpoint or an exported model for predicting images.

    Args:
        ckpt: A checkpoint, a run folder (its `best.ckpt`), a sweep (the checkpoint of its best
            configuration), or a folder of runs (the newest run's). Or a file that `bcd export`
            wrote (.onnx), which needs no torch.
        uncalibrated: Whether to accept one without a decision policy. All of its predictions are
            then referred.
        device: `cpu`, `cuda`, `mps` (checkpoints only), or `auto` for the first accelerator, else
            the CPU.
        site: Keys of the `site` group of `bcd predict`, such as `{"profile": "site.json"}`; None
            to take images as they are.
        verify: A public key (PEM): an exported model is used only if its signature is by this key.

    Returns:
        A predictor; `predict(paths)` gives the rows of `predictions.csv`.

    Raises:
        BcdError: There is no such file or device, it is damaged or not signed, it has no decision
            policy, or the profile cannot be used.

    Example:
        >>> rows = bcd.load("outputs/paper/<run>").predict("data/new")  # doctest: +SKIP
    """
    from bcd.inference.predictor import Predictor, load_any

    return Predictor(load_any(ckpt, uncalibrated, device, verify), site)
