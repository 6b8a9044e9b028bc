"""Predicts image files of unknown class; a bad file is a row with its reason."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from bcd.data.sandbox import Answer, Wanted, read_all
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.predictions import Prediction
from bcd.inference.checkpoint import Card
from bcd.models.network import SmearNetwork


@torch.inference_mode()
def predict_files(
    network: SmearNetwork,
    card: Card,
    paths: Sequence[Path],
    device: torch.device,
    batch_size: int,
    num_workers: int | None,
) -> Iterator[list[Prediction]]:
    """Yields the predictions of files, batch by batch in order, as they are done.

    Args:
        network: From `load_checkpoint`.
        card: Likewise.
        paths: Image files.
        device: Where to compute.
        batch_size: Images at a time.
        num_workers: Processes that read; None to choose; 0 reads in this process, where nothing
            bounds the time of a file and a decoder's crash ends all.
    """
    network.eval().to(device)
    policy = DecisionPolicy.from_plain(card.policy)
    wanted = Wanted(card.input_size, card.mask_scale_bar)
    answers = zip(paths, read_all(paths, wanted, num_workers), strict=True)
    while batch := list(itertools.islice(answers, batch_size)):
        yield _predict(network, policy, batch, device)


def _predict(
    network: SmearNetwork,
    policy: DecisionPolicy,
    batch: Sequence[tuple[Path, Answer]],
    device: torch.device,
) -> list[Prediction]:
    readable = [(path, answer) for path, answer in batch if not isinstance(answer, str)]
    said: Iterator[Prediction] = iter(())
    if readable:
        pixels = torch.from_numpy(np.stack([answer for _, answer in readable]))
        features = network.embed(pixels.permute(0, 3, 1, 2).to(device))
        logits = network.head(features).float().cpu().numpy()
        decisions = policy.answer(logits, features.float().cpu().numpy())
        said = (decisions.prediction(place, str(path)) for place, (path, _) in enumerate(readable))
    return [policy.unread(str(p), a) if isinstance(a, str) else next(said) for p, a in batch]
