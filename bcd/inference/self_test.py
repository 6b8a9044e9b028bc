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
from bcd.config.schema import MOST_SIDE
from bcd.data.input_views import sides_of, views_to_read
from bcd.data.items import Wanted
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError
from bcd.inference.model import Model

Pixels = NDArray[np.uint8]

TOLERANCE = 1e-3  # largest accepted difference of a probability
# On 1,227 real smears weights in float16 change one by up to 0.0094, by 2e-6 in the median.
FLOAT16_TOLERANCE = 0.02
ROUNDED_TOLERANCE = 1e-2  # where resizing rounds a pixel differently
_LEAST_SIDE = 32  # of a drawn smear, in pixels


def tolerance_of(precision: str) -> float:
    """Largest accepted difference; with reduced precision machines differ as much as it may."""
    return FLOAT16_TOLERANCE if precision in ("float16", "int8") else TOLERANCE


def make_self_test(
    answer: Callable[[Pixels], Mapping[str, NDArray[Any]]],
    views: Sequence[InputView],
    mask: bool,
    precision: str,
) -> dict[str, Any]:
    """Computes reference answers, one for a drawn smear of each class.

    Args:
        answer: Answers a batch of packed images.
        views: That the network gets.
        mask: Whether the corner with the scale bar is covered.
        precision: Of the file. It says how much a probability may differ, and a score relative to
            it where it is above 1.

    Returns:
        Plain data for `check_self_test`.
    """
    images = []
    for drawn in _drawings(views):
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
    return {"tolerance": tolerance_of(precision), "images": images}


def _drawings(views: Sequence[InputView]) -> list[dict[str, Any]]:
    """Arguments of `draw_smear` for the images."""
    size = max(_LEAST_SIDE, *sides_of(views))
    if size > MOST_SIDE:
        raise ValueError("larger than any input view")
    return [
        {"class_name": name, "slide": number, "index": number, "size": size}
        for number, name in enumerate(CLASS_NAMES)
    ]


def check_self_test(
    given: str, model: Model, recorded: Mapping[str, Any] | None, precision: str
) -> None:
    """Checks that a model answers as when it was exported, alone and in a batch.

    Where this machine prepares an image otherwise, by a rounded pixel, and on an accelerator, the
    tolerance is at least `ROUNDED_TOLERANCE`.

    Args:
        given: The setting that names the model, for errors.
        model: The exported file.
        recorded: What `make_self_test` gave; None if there is nothing.
        precision: Of the file; it bounds the tolerance.

    Raises:
        BcdError: There are no reference answers, they are not those of `make_self_test`, or an
            answer differs.
    """
    if recorded is None:
        raise BcdError(f"{given}: has no reference answers for the self-test: export it again")
    facts = model.facts
    try:
        images, drawings = list(recorded["images"]), _drawings(facts.input_views)
        tolerance = float(recorded["tolerance"])
        if [one["drawn"] for one in images] != drawings:
            raise ValueError("other images")
        if not 0 < tolerance <= tolerance_of(precision):
            raise ValueError("no tolerance of bcd export")
        packed = [_packed(one, facts.input_views, facts.mask_scale_bar) for one in drawings]
        expected = [
            (np.asarray(one["probabilities"], float), float(one["ood_score"])) for one in images
        ]
        sums = [one["packed_sha256"] for one in images]
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
