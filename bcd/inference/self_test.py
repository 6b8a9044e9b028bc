"""Reference answers in an exported file, which a server computes again before it answers.

The images are drawn, so the file holds only what is drawn, a checksum of what the network gets of
it, and the answers. They show that this machine computes what the one that exported the file did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.input_views import InputView
from bcd.data.input_views import sides_of, views_to_read
from bcd.data.items import Wanted
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError
from bcd.inference.model import Model

Pixels = NDArray[np.uint8]

ROUNDED_TOLERANCE = 1e-2  # where resizing rounds a pixel differently
_LEAST_SIDE = 32  # of a drawn smear, in pixels


def make_self_test(
    answer: Callable[[Pixels], Mapping[str, NDArray[Any]]],
    views: Sequence[InputView],
    mask: bool,
    tolerance: float,
) -> dict[str, Any]:
    """Computes reference answers, one for a drawn smear of each class.

    Args:
        answer: Answers a batch of packed images.
        views: That the network gets.
        mask: Whether the corner with the scale bar is covered.
        tolerance: Largest accepted difference of a probability, and of a score relative to it
            where it is above 1.

    Returns:
        Plain data for `check_self_test`.
    """
    images, size = [], max(_LEAST_SIDE, *sides_of(views))
    for number, name in enumerate(CLASS_NAMES):
        drawn = {"class_name": name, "slide": number, "index": number, "size": size}
        packed = _packed(drawn, views, mask)
        found = answer(packed[None])
        images.append(
            {
                "drawn": drawn,
                "packed_sha256": hashlib.sha256(packed.tobytes()).hexdigest(),
                "probabilities": found["probabilities"][0].tolist(),
                "ood_score": float(found["ood_score"][0]),
            }
        )
    return {"tolerance": tolerance, "images": images}


def check_self_test(given: str, model: Model, recorded: Mapping[str, Any] | None) -> None:
    """Checks that a model answers as when it was exported, alone and in a batch.

    Where this machine prepares an image otherwise, by a rounded pixel, and on an accelerator, the
    tolerance is at least `ROUNDED_TOLERANCE`.

    Args:
        given: The setting that names the model, for errors.
        model: The exported file.
        recorded: What `make_self_test` gave; None if there is nothing.

    Raises:
        BcdError: There are no reference answers, or an answer differs.
    """
    if recorded is None:
        raise BcdError(f"{given}: has no reference answers for the self-test: export it again")
    facts = model.facts
    try:
        images = list(recorded["images"])
        packed = [_packed(one["drawn"], facts.input_views, facts.mask_scale_bar) for one in images]
        expected = [(np.asarray(one["probabilities"]), one["ood_score"]) for one in images]
        sums = [one["packed_sha256"] for one in images]
        tolerance = float(recorded["tolerance"])
        if not images or not 0 < tolerance < 1:
            raise ValueError("nothing to compare")
    except (LookupError, TypeError, ValueError) as error:
        raise BcdError(f"{given}: its self-test is damaged: export it again") from error
    same = [hashlib.sha256(p.tobytes()).hexdigest() == s for p, s in zip(packed, sums, strict=True)]
    if not all(same) or model.device != "cpu":
        tolerance = max(tolerance, ROUNDED_TOLERANCE)
    differs = max(
        _difference(model, one[None], [e]) for one, e in zip(packed, expected, strict=True)
    )
    differs = max(differs, _difference(model, np.stack(packed), expected))
    if not differs <= tolerance:
        raise BcdError(
            f"{given}: failed parity: on this machine an answer differs by {differs:.2g} from when "
            f"it was exported (at most {tolerance:g}): use another version of onnxruntime, or "
            "export it again"
        )


def _packed(drawn: Mapping[str, Any], views: Sequence[InputView], mask: bool) -> Pixels:
    return Wanted(views_to_read(views), mask).pack(draw_smear(**drawn))


def _difference(
    model: Model, packed: Pixels, expected: Sequence[tuple[NDArray[Any], float]]
) -> float:
    """Largest difference; infinite where an answer is no number."""
    found = model.answer(packed)
    largest = 0.0
    for row, score, (own, own_score) in zip(
        found.probabilities, found.ood_scores, expected, strict=True
    ):
        far = np.abs(row - own).max() if row.shape == own.shape else np.inf
        off = abs(score - own_score) / max(own_score, 1.0)
        both = max(float(far), float(off)) if np.isfinite([far, off]).all() else np.inf
        largest = max(largest, both)
    return largest
