"""Whether test-time views are worth their time: decided on out-of-fold answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bcd.evaluation.answers import softmax
from bcd.evaluation.bootstrap import fill_group_names, group_ids
from bcd.evaluation.calibration import fit_temperature
from bcd.evaluation.metrics import losses
from bcd.evaluation.out_of_fold import MemberAnswers
from bcd.models.network import SmearNetwork
from bcd.models.test_time import tta_views
from bcd.release.answers import Images, collect_members

_DRAWS = 2000


@dataclass(frozen=True)
class Gain:
    """What test-time views change, out of fold.

    Attributes:
        kind: Of the views.
        kept: Whether the release uses them.
        loss: Log loss without and with them, each at its own temperature.
        loss_gain: Mean reduction of the loss.
        loss_gain_ci: Its 95 % interval over groups; views are kept if it is above 0.
        accuracy: Accuracy without and with them.
        passes: Number of passes of the network an image takes with them.
    """

    kind: str
    kept: bool
    loss: tuple[float, float]
    loss_gain: float
    loss_gain_ci: tuple[float, float]
    accuracy: tuple[float, float]
    passes: int


def try_views(
    images: Images, network: SmearNetwork, plain: MemberAnswers, kind: str
) -> tuple[MemberAnswers, Gain]:
    """Compares out-of-fold answers with and without test-time views.

    Args:
        images: All images.
        network: The ensemble; it has the views afterwards if they are kept.
        plain: Its answers without them.
        kind: Of the views.

    Returns:
        The answers of what is kept, and the comparison.
    """
    network.test_time = kind
    viewed = collect_members(images, network, plain.validated is not None)
    losses_of, right = [], []
    for answers in (plain, viewed):
        own = answers.out_of_fold(1.0)
        p = softmax(own.logits / fit_temperature(own.logits, own.labels))
        losses_of.append(losses(p, own.labels))
        right.append(float((p.argmax(axis=1) == own.labels).mean()))
    gained = losses_of[0] - losses_of[1]
    numbers = group_ids(fill_group_names(images.clusters), len(gained))
    sizes, sums = np.bincount(numbers), np.bincount(numbers, gained)
    picked = np.random.default_rng(0).integers(0, len(sizes), (_DRAWS, len(sizes)))
    low, high = np.quantile(sums[picked].sum(axis=1) / sizes[picked].sum(axis=1), (0.025, 0.975))
    kept = bool(low > 0)
    if not kept:
        network.test_time = None
    loss = (float(losses_of[0].mean()), float(losses_of[1].mean()))
    gain = Gain(
        kind, kept, loss, float(gained.mean()), (float(low), float(high)), (right[0], right[1]),
        len(tta_views(torch.zeros(1, 3, 8, 8), kind)),
    )  # fmt: skip
    return (viewed if kept else plain), gain
