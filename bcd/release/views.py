"""Whether test-time views are worth their time: decided on out-of-fold answers."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from bcd.evaluation.answers import softmax
from bcd.evaluation.bootstrap import fill_group_names, group_ids
from bcd.evaluation.calibration import fit_temperature
from bcd.evaluation.metrics import losses
from bcd.evaluation.out_of_fold import MemberAnswers
from bcd.models.network import SmearNetwork
from bcd.release.answers import Images, collect_members

_DRAWS, _TIMED = 2000, 16


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
        times_longer: Time of the network with them over that without.
    """

    kind: str
    kept: bool
    loss: tuple[float, float]
    loss_gain: float
    loss_gain_ci: tuple[float, float]
    accuracy: tuple[float, float]
    times_longer: float


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
    viewed = collect_members(images, network)
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
    slower = _times_longer(network, images.cfg.model.input_size)
    if not kept:
        network.test_time = None
    loss = (float(losses_of[0].mean()), float(losses_of[1].mean()))
    gain = Gain(
        kind, kept, loss, float(gained.mean()), (float(low), float(high)), (right[0], right[1]),
        slower,
    )  # fmt: skip
    return (viewed if kept else plain), gain


@torch.inference_mode()
def _times_longer(network: SmearNetwork, side: int) -> float:
    """Time of the network with its test-time views over that without."""
    device = next(network.parameters()).device
    x = torch.zeros(_TIMED, 3, side, side, dtype=torch.uint8, device=device)
    kind, seconds = network.test_time, []
    for name in (kind, None):
        network.test_time = name
        network.outputs(x)
        started = time.perf_counter()
        network.outputs(x)
        seconds.append(time.perf_counter() - started)
    network.test_time = kind
    return seconds[0] / seconds[1]
