"""Compares what an exported file answers with what it answered before it was quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.export import ExportConfig
from bcd.console import say, show_table
from bcd.errors import BcdError
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.unsafe import is_unsafe
from bcd.export.detection import is_flagged
from bcd.export.parity import Answer
from bcd.export.run_images import RunImages

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """Answers for n images with known classes.

    Attributes:
        labels: (n,).
        correct: Whether the most probable class is the right one, (n,).
        refer: Whether the image is referred, (n,).
        flagged: Whether the image is out of distribution, (n,).
        unsafe: Whether the answer is wrong about malignancy and the image not referred, (n,); None
            without a benign class.
    """

    labels: NDArray[np.int64]
    correct: Booleans
    refer: Booleans
    flagged: Booleans
    unsafe: Booleans | None

    @property
    def accuracy(self) -> float:
        """Share of images with the right class."""
        return float(self.correct.mean())

    def to_plain(self) -> dict[str, Any]:
        """Figures of all images, ready for JSON."""
        unsafe = None if self.unsafe is None else int(self.unsafe.sum())
        return {
            "n": len(self.labels), "accuracy": self.accuracy,
            "referred": float(self.refer.mean()), "out_of_distribution": float(self.flagged.mean()),
            "n_unsafe": unsafe,
        }  # fmt: skip


def measure(
    answers: Sequence[Answer], images: RunImages, indices: Sequence[int], policy: DecisionPolicy
) -> list[Measured]:
    """Measures several files on the same images, which are read once.

    Args:
        answers: Of each file.
        images: Of the run.
        indices: Which of them.
        policy: Of the checkpoint; tells whether malignancy is decided.
    """
    kept = ("probabilities", "malignant", "refer")
    rows: list[list[list[Any]]] = [[] for _ in answers]
    for image in images.read(indices):
        for found, answer in zip(rows, answers, strict=True):
            outputs = answer(image)
            found.append([*(outputs[name][0] for name in kept), is_flagged(outputs)])
    labels = images.labels(indices)
    benign = None if policy.malignant_threshold is None else policy.benign
    measured = []
    for found in rows:
        probabilities, called, refer, flagged = (
            np.array(part) for part in zip(*found, strict=True)
        )
        # Without probabilities an image is referred.
        best = np.nan_to_num(probabilities).argmax(1)
        unsafe = None if benign is None else is_unsafe(labels != benign, called, refer)
        measured.append(Measured(labels, best == labels, refer, flagged, unsafe))
    return measured


def show_measured(
    found: Mapping[str, Sequence[Measured]], classes: Sequence[str], precision: str
) -> None:
    """Prints figures of each class in float32 and in another precision."""
    for name, (old, new) in found.items():
        rows = [_row("all", old, new, np.ones(len(old.labels), bool))]
        rows += [_row(c, old, new, old.labels == k) for k, c in enumerate(classes)]
        title = f"float32 -> {precision} on {name}"
        show_table(title, ["class", "n", "accuracy", "unsafe", "referred", "OOD"], rows)


def tell_fitted(before: DecisionPolicy, after: DecisionPolicy) -> None:
    """Prints what was fitted again."""
    line = f"int8: fitted again on val: temperature {before.temperature:.3f} -> "
    line += f"{after.temperature:.3f}"
    if before.malignant_threshold is not None and after.malignant_threshold is not None:
        line += f", threshold {before.malignant_threshold:.4g} -> {after.malignant_threshold:.4g}"
    if before.subspace is not None and after.subspace is not None:
        old_limit, new_limit = before.subspace.limit, after.subspace.limit
        line += f"; on train and val: limit of OOD detection {old_limit:.4g} -> {new_limit:.4g}"
    say(line)


def check_loss(val: Sequence[Measured], cfg: ExportConfig) -> None:
    """Checks that the accuracy on val does not fall by more than `max_loss` points.

    Args:
        val: Answers in float32, and in the requested precision.
        cfg: Checked configuration.

    Raises:
        BcdError: It does.
    """
    loss = 100 * (val[0].accuracy - val[1].accuracy)
    if loss > cfg.max_loss:
        other = "float16, or raise calibration_images" if cfg.precision == "int8" else "float32"
        raise BcdError(
            f"precision={cfg.precision}: accuracy on val falls by {loss:.2f} points, more than "
            f"max_loss={cfg.max_loss:g}: nothing was written; use precision={other}, or raise "
            "max_loss"
        )


def _row(name: str, old: Measured, new: Measured, chosen: Booleans) -> list[str]:
    n = int(chosen.sum())
    if not n:
        return [name, "0", "", "", "", ""]
    unsafe = ""
    if old.unsafe is not None and new.unsafe is not None:
        unsafe = f"{old.unsafe[chosen].sum()} -> {new.unsafe[chosen].sum()}"
    return [
        name,
        str(n),
        f"{old.correct[chosen].mean():.2%} -> {new.correct[chosen].mean():.2%}",
        unsafe,
        f"{old.refer[chosen].mean():.2%} -> {new.refer[chosen].mean():.2%}",
        f"{old.flagged[chosen].mean():.2%} -> {new.flagged[chosen].mean():.2%}",
    ]
