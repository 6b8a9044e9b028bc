"""Predicts picture files of unknown class; a bad file is a row with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bcd.data.loading import make_loader
from bcd.data.reading import PictureError, read_picture
from bcd.data.views import Source, prepare
from bcd.evaluation.judge import Judge
from bcd.evaluation.predictions import Prediction
from bcd.inference.checkpoint import Card
from bcd.models.network import SmearNetwork

# Pixels (zeros where unreadable), place in the list of files, and the reason where unreadable.
Sample = tuple[Tensor, int, str]
Batch = tuple[Tensor, list[int], list[str]]


class Files(Source):
    """Picture files by place in a list.

    Args:
        paths: The files.
        size: Side of the result in pixels.
        mask: Whether the corner with the scale bar is covered.
    """

    def __init__(self, paths: Sequence[Path], size: int, mask: bool) -> None:
        self.paths = paths
        self.size = size
        self.mask = mask

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Pixels uint8 (size, size, 3), the index, and the reason if unreadable."""
        try:
            pixels = prepare(read_picture(self.paths[index]), self.size, self.mask)
            return torch.from_numpy(np.ascontiguousarray(pixels).copy()), index, ""
        except PictureError as error:
            return torch.zeros(self.size, self.size, 3, dtype=torch.uint8), index, str(error)

    @staticmethod
    def collate(samples: Sequence[Sample]) -> Batch:
        """Stacks samples into pictures (N, 3, size, size), indices and reasons."""
        pixels, indices, errors = zip(*samples, strict=True)
        return torch.stack(pixels).permute(0, 3, 1, 2), list(indices), list(errors)


@torch.inference_mode()
def predict_files(
    network: SmearNetwork,
    card: Card,
    paths: Sequence[Path],
    device: torch.device,
    batch_size: int,
    num_workers: int | None,
) -> Iterator[Prediction]:
    """Yields the prediction of each file in order, as batches are done.

    Args:
        network: From `load_checkpoint`.
        card: Likewise.
        paths: Picture files.
        device: Where to compute.
        batch_size: Pictures at a time.
        num_workers: Processes that read; None to choose.
    """
    files = Files(paths, card.input_size, card.mask_scale_bar)
    loader = make_loader(files, torch.utils.data.SequentialSampler(files), batch_size, num_workers)
    network.eval().to(device)
    judge = Judge.from_plain(card.judge)
    for pixels, indices, errors in loader:
        features = network.embed(pixels.to(device))
        logits = network.head(features).float().cpu().numpy()
        judged = judge.answer(logits, features.float().cpu().numpy())
        for place, (index, error) in enumerate(zip(indices, errors, strict=True)):
            path = str(paths[index])
            yield judge.unread(path, error) if error else judged.prediction(place, path)
