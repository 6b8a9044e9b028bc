"""Checks that an exported file answers as its checkpoint does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.data.input_views import views_to_read
from bcd.data.items import Wanted
from bcd.data.reading import fit
from bcd.data.synthetic.drawing import slide_appearance
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError
from bcd.evaluation.decision import DecisionPolicy, Decisions, p_malignant
from bcd.export.policy import REASONS
from bcd.export.resize import resize
from bcd.inference.checkpoint import Card
from bcd.inference.checkpoint_model import CheckpointModel
from bcd.inference.self_test import FLOAT16_TOLERANCE, ROUNDED_TOLERANCE, TOLERANCE
from bcd.models.network import SmearNetwork

Pixels = NDArray[np.uint8]
Outputs = Mapping[str, NDArray[Any]]
# Answers a batch: images of equal size, or packed ones; returns outputs by name.
Answer = Callable[[Pixels], Outputs]

# Height and width relative to the network's side; the last ones are pixels of tiny images.
_SIZES = ((1.0, 1.0), (2.0, 2.0), (2.14, 2.86), (1.07, 0.93), (0.43, 1.7), (4.46, 3.35))
_TINY = ((1, 1), (61, 97))


@dataclass(frozen=True)
class Parity:
    """How far an exported file's answers are from its checkpoint's.

    Attributes:
        images: Number of images compared.
        decided: How many of them are not so close to a threshold that either answer is right.
        largest: Largest difference of a probability, or of an out-of-distribution score.
        rounded: The same for images of which the graph resizes a pixel to a value that is 1 off,
            as rounding errors of float32 can make it.
        differences: Images whose class, malignancy, referral or reasons differ, with what differs.
    """

    images: int
    decided: int
    largest: float
    rounded: float
    differences: tuple[str, ...]

    def check(self, tolerance: float = TOLERANCE) -> None:
        """Raises an error if the answers differ.

        Args:
            tolerance: Largest accepted difference where resizing gives the same pixels.

        Raises:
            BcdError: A decision or, by more than the tolerance, a probability or score differs.
        """
        rounded = max(tolerance, ROUNDED_TOLERANCE)
        fits = self.largest <= tolerance and self.rounded <= rounded
        if self.differences or not fits:
            first = f"; {self.differences[0]}" if self.differences else ""
            raise BcdError(
                f"the exported file does not answer as the checkpoint: of {self.images} images, "
                f"{len(self.differences)} get another decision, and a probability or score differs "
                f"by up to {max(self.largest, self.rounded):.2g} (at most {tolerance:g}){first}: "
                f"nothing was written{'; try precision=float32' if tolerance > TOLERANCE else ''}"
            )


class Reference:
    """The answers of a checkpoint.

    Args:
        network: In eval mode.
        card: Of the checkpoint.

    Attributes:
        model: The checkpoint.
        pack: Makes of an image (height, width, 3) what a predictor reads.
    """

    def __init__(self, network: SmearNetwork, card: Card) -> None:
        self.model = CheckpointModel(network, card, "cpu")
        self.pack = Wanted(views_to_read(card.input_views), card.mask_scale_bar).pack

    def resizes_alike(self, image: Pixels) -> bool:
        """Whether a graph resizes an image to the same pixels as the predictor."""
        tensor = torch.from_numpy(image)[None]
        sides = self.model.card.sides
        return all(bool((resize(tensor, s)[0].numpy() == fit(image, s)).all()) for s in sides)

    def decide(self, image: Pixels) -> tuple[Decisions, float]:
        """The decisions about an image, and its out-of-distribution score."""
        outputs, policy = self.model.outputs(self.pack(image)[None]), self.model.policy
        return policy.answer(*outputs), float(policy.ood_score(outputs[1])[0])


def parity_images(side: int) -> list[Pixels]:
    """Drawn smears and images that are none, of ordinary and of odd sizes, (height, width, 3).

    Args:
        side: Of the network's input in pixels.
    """
    sizes = [(max(round(h * side), 1), max(round(w * side), 1)) for h, w in _SIZES]
    rng = np.random.default_rng(0)
    found = []
    for number, (height, width) in enumerate([*sizes, *_TINY]):
        long = max(height, width, 32)
        name = CLASS_NAMES[number % len(CLASS_NAMES)]
        smear = draw_smear(name, slide=number, index=number, size=long)
        found.append(np.ascontiguousarray(smear[:height, :width]))
    background = slide_appearance(np.random.default_rng(0)).background
    found.append(np.full((side, side, 3), np.round(background), np.uint8))  # an empty field
    found.append(rng.integers(0, 256, (side, side + 3, 3), dtype=np.uint8))
    found.append(np.zeros((side + 1, side, 3), np.uint8))
    return found


def compare(answer: Answer, reference: Reference, images: Sequence[Pixels], packed: bool) -> Parity:
    """Compares answers for each image.

    Args:
        answer: Of the exported file.
        reference: Of the checkpoint.
        images: (height, width, 3) each.
        packed: Whether the file takes packed images.
    """
    largest, rounded, decided, differences = 0.0, 0.0, 0, []
    for number, image in enumerate(images):
        given = reference.pack(image) if packed else image
        own = {name: value[0] for name, value in answer(given[None]).items()}
        expected, score = reference.decide(image)
        far = _distance(own["probabilities"], expected.probabilities[0])
        off = _distance(own["ood_score"], np.asarray(score)) / max(score, 1.0)
        if packed or reference.resizes_alike(image):
            largest = max(largest, far, off)
        else:
            rounded = max(rounded, far, off)
        if _is_close(reference.model.policy, expected, score, far, off):
            continue
        decided += 1
        if found := _different(own, expected):
            size = "x".join(map(str, image.shape[:2]))
            differences.append(f"image {number} ({size}): {found}")
    return Parity(len(images), decided, largest, rounded, tuple(differences))


def _distance(own: NDArray[Any], expected: NDArray[Any]) -> float:
    if np.isfinite(own).all() != np.isfinite(expected).all():
        return float("inf")
    return float(np.nan_to_num(np.abs(own - expected)).max())


def _is_close(
    policy: DecisionPolicy, expected: Decisions, score: float, far: float, off: float
) -> bool:
    """Whether a decision may change by differences as large as those found.

    Args:
        policy: Of the checkpoint.
        expected: Its decisions about one image.
        score: Its out-of-distribution score.
        far: By how much a probability differs.
        off: By how much the score differs.
    """
    row = expected.probabilities[0]
    if not np.isfinite(row).all() or max(far, off) > FLOAT16_TOLERANCE:
        return False
    second, first = np.sort(row)[-2:]
    gaps = [first - policy.confidence_threshold]
    if np.ptp(row) > 1e-9:  # equal probabilities are a decision of their own
        gaps.append((first - second) / 2)
    if policy.benign is not None and policy.malignant_threshold is not None:
        gaps.append(float(p_malignant(row[None], policy.benign)[0]) - policy.malignant_threshold)
    return bool(min(map(abs, gaps)) <= far or abs(score - 1) <= off)


def _different(own: Outputs, expected: Decisions) -> str:
    """What differs between two answers for an image; empty if nothing."""
    reasons = tuple(name for name, given in zip(REASONS, own["reasons"], strict=True) if given)
    if reasons != expected.reasons[0] or bool(own["refer"]) != bool(reasons):
        return f"reasons {list(reasons)} instead of {list(expected.reasons[0])}"
    malignant = expected.malignant[0]
    if malignant is not None and bool(own["malignant"]) != malignant:
        return f"malignant {bool(own['malignant'])} instead of {malignant}"
    row = expected.probabilities[0]
    if np.isfinite(row).all() and own["probabilities"].argmax() != row.argmax():
        return f"class {own['probabilities'].argmax()} instead of {row.argmax()}"
    return ""
