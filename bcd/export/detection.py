"""Out-of-distribution detection of a quantized file: fitted again, and compared on changed images.

Foreign images are not among a run's images. So images of val are changed: strongly, as no smear is
changed by a microscope, and mildly, so that a part of them is within the limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bcd.console import show_table
from bcd.data.input_views import views_to_read
from bcd.data.items import Wanted
from bcd.errors import BcdError
from bcd.evaluation import decision
from bcd.evaluation.corruption_suites import make_corruption
from bcd.evaluation.corruptions import Pixels
from bcd.evaluation.ood import Subspace, fit_detector
from bcd.export.parity import Answer
from bcd.export.policy import REASONS
from bcd.export.run_images import RunImages

_MOST = 64  # images of val that are changed
# Most changed images, as a share, that may no longer be flagged. In int8, at most 1.4 % were lost
# to any of 34 changes of the paper's run, and no image of those that float32 flags entirely.
_MARGIN = 0.05

_INVERTED = "inverted"
_STRONG = {
    "no colour": ("grey", 0),
    "hue + 90°": ("hue", 90),
    "hue - 90°": ("hue", -90),
    "blur, 6 px": ("defocus", 6),
    "noise, sd 0.5": ("noise", 0.5),
}
_MILD = (
    ("brightness", 0.8),
    ("brightness", 1.2),
    ("brightness", 1.3),
    ("motion blur", 5),
    ("jpeg", 10),
    ("noise", 0.05),
    ("zoom", 0.8),
)
CHANGES = (_INVERTED, *_STRONG, "mild changes")
"""Names of the changes; the last one stands for several."""

# Of each change, the images flagged by each file, out of a number of them.
Flagged = Mapping[str, tuple[Sequence[int], int]]


def is_flagged(outputs: Mapping[str, Any]) -> bool:
    """Whether an exported file finds its one image out of distribution."""
    return bool(outputs["reasons"][0, REASONS.index(decision.OOD)])


def refit_detector(
    before: Subspace, descriptors: Any, share: float, groups: Sequence[str] | None
) -> Subspace:
    """Fits a detector as the training run did, to other descriptors of the same images.

    Args:
        before: That of the run.
        descriptors: Of train and val, (n, d).
        share: Of own images to be out of distribution.
        groups: Group of each image, (n,); None if images are independent.

    Raises:
        BcdError: Not all of the run's images are given.
    """
    found = fit_detector(descriptors, share, groups)
    if found is None or found.basis.shape != before.basis.shape:
        raise BcdError(
            "precision=int8: the out-of-distribution detector of the run was fitted to other "
            "images: use precision=float16"
        )
    return found


def count_flagged(
    answers: Sequence[Answer], images: RunImages, indices: Sequence[int]
) -> dict[str, tuple[list[int], int]]:
    """Counts the changed images that each of several files flags.

    Args:
        answers: Of each file.
        images: Of the run.
        indices: Images of val; an even selection of them is changed.

    Returns:
        By the names of `CHANGES`: how many each file flags, out of how many.
    """
    count = min(_MOST, len(indices))
    places = np.linspace(0, len(indices) - 1, count).round().astype(int)
    chosen = [indices[place] for place in places]
    wanted = Wanted(views_to_read(images.card.input_views), images.card.mask_scale_bar)
    flagged = {name: [0] * len(answers) for name in CHANGES}
    given = dict.fromkeys(CHANGES, 0)
    for index, image in zip(chosen, images.read_plain(chosen), strict=True):
        for name, changed in _changed(image, images.catalog.images[index].sha256):
            packed = wanted.pack(changed)[None]
            given[name] += 1
            for number, answer in enumerate(answers):
                flagged[name][number] += is_flagged(answer(packed))
    return {name: (flagged[name], given[name]) for name in CHANGES}


def _changed(image: Pixels, sha256: str) -> Iterator[tuple[str, Pixels]]:
    yield _INVERTED, np.asarray(255 - image, np.uint8)
    for name, (kind, strength) in _STRONG.items():
        yield name, make_corruption(kind, strength).apply(image, sha256)
    for kind, strength in _MILD:
        yield CHANGES[-1], make_corruption(kind, strength).apply(image, sha256)


def show_flagged(found: Flagged) -> None:
    """Prints the shares of changed images that two files flag."""
    rows = [
        [name, str(n), f"{old / n:.1%} -> {new / n:.1%}"] for name, ((old, new), n) in found.items()
    ]
    title = "float32 -> int8 on changed images of val"
    show_table(title, ["change", "n", "OOD"], rows)


def check_detection(found: Flagged) -> None:
    """Checks that the second of two files flags as many changed images as the first.

    Raises:
        BcdError: It flags fewer, by more than one image and by more than the margin.
    """
    for name, ((old, new), n) in found.items():
        if old - new > max(1.0, _MARGIN * n):
            raise BcdError(
                f"precision=int8: of {n} changed images of val ({name}), {new} are out of "
                f"distribution instead of {old}: nothing was written; use precision=float16, or "
                "raise calibration_images"
            )
