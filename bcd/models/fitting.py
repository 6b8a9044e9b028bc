"""Fitting a head once, on the features of all views of the train set."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bcd.console import say
from bcd.errors import BcdError
from bcd.models.heads.base import FittedHead
from bcd.models.network import SmearNetwork

_ROWS = 1024  # features per call of the head, so that memory stays small


@torch.no_grad()
def fit_head(
    network: SmearNetwork,
    loader: DataLoader[Any],
    batches: float,
    balanced: bool,
    seed: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Computes the features of all views and fits the network's head on them.

    Args:
        network: Its head is a `FittedHead`; it is put into eval mode.
        loader: Of the train set. A sampler with `views` gives view e after `set_epoch(e)`; all its
            views are used. Any other loader is read once.
        batches: Number of batches of the loader to use for each view, at most.
        balanced: Whether rare classes weigh more.
        seed: Of the random draws of the estimator.
        device: Where to compute.

    Returns:
        Logits (n, classes) and labels (n,) of the last view, after fitting. A head that memorizes
        its images, such as k nearest neighbours, classifies nearly all of them correctly.

    Raises:
        BcdError: Features are not finite, or all images are of one class.
    """
    network.eval()
    head = network.head
    assert isinstance(head, FittedHead)
    sampler: Any = loader.sampler
    features: list[Tensor] = []
    labels: list[Tensor] = []
    last = 0  # batch at which the last view begins
    for view in range(getattr(sampler, "views", 1)):
        last = len(features)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(view)
        limit = None if batches == float("inf") else int(batches)
        for x, target in itertools.islice(loader, limit):
            features.append(_finite(network.embed(x.to(device)).float().cpu()))
            labels.append(target.cpu())
    rows, targets = torch.cat(features), torch.cat(labels)
    started = time.perf_counter()
    head.fit(rows.numpy(), targets.numpy(), balanced, seed)
    seconds = time.perf_counter() - started
    say(f"head={head.cfg.kind}: fitted on {len(targets)} views of images in {seconds:.1f} s")
    again = torch.split(torch.cat(features[last:]), _ROWS)
    logits = torch.cat([head(part.to(device)) for part in again])
    return logits, torch.cat(labels[last:]).to(device)


def _finite(features: Tensor) -> Tensor:
    if not bool(features.isfinite().all()):
        raise BcdError(
            "features of images are not finite, so no head can be fitted on them; check "
            "model.weights, or set trainer.precision=32-true"
        )
    return features
