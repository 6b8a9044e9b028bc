"""Predicts image files with a checkpoint; an unreadable file gets a row with the reason."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bcd.config.compose import read_defaults
from bcd.data.load import expand_inputs
from bcd.data.sandbox import Answer, Wanted, read_all
from bcd.data.views import ViewSource
from bcd.evaluation.collect import choose_device
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.predictions import Prediction, prediction_record
from bcd.inference.checkpoint import load_checkpoint
from bcd.run_folder import find_checkpoint


class Predictor:
    """A checkpoint that predicts image files; `bcd.load` makes one.

    Args:
        ckpt: A checkpoint, or a folder as in `find_checkpoint`.
        uncalibrated: Whether to accept a checkpoint without a decision policy.
        device: `cpu`, `cuda`, `mps`, or `auto` for the first accelerator, else the CPU.

    Attributes:
        network: In eval mode, on the device.
        card: The checkpoint's description of itself.
        policy: Calibrates the network's answers and decides which are referred.
        device: Where the network runs.

    Raises:
        BcdError: There is no such checkpoint or device, or it has no decision policy.
    """

    def __init__(
        self, ckpt: str | Path, *, uncalibrated: bool = False, device: str = "auto"
    ) -> None:
        network, self.card = load_checkpoint(find_checkpoint(str(ckpt)), uncalibrated)
        self.device = choose_device(device)
        self.network = network.eval().to(self.device)
        self.policy = DecisionPolicy.from_plain(self.card.policy)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        return self.card.classes

    def predict(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> list[dict[str, Any]]:
        """Predicts images.

        Args:
            paths: A file, a folder (searched recursively), a glob, or a list of these.
            batch_size: Number of images at a time; None for the default of `bcd predict`.
            num_workers: Number of processes that read images; None for one a core. With 0, this
                process reads them; it has no time limit for a file and ends if a decoder crashes.

        Returns:
            A dict for each image, with the columns of `predictions.csv`. Probabilities are floats,
            `malignant` and `refer` are bools, and missing values are None. An image that could
            not be read has its reason in `error`.

        Raises:
            BcdError: A path matches no image.
        """
        given = [paths] if isinstance(paths, str | os.PathLike) else paths
        files = expand_inputs([str(path) for path in given])
        size = batch_size or read_defaults("predict")["batch_size"]
        batches = self.batches(files, size, num_workers)
        return [prediction_record(p, self.classes) for batch in batches for p in batch]

    @torch.inference_mode()
    def batches(
        self, files: Sequence[Path], batch_size: int, num_workers: int | None
    ) -> Iterator[list[Prediction]]:
        """Yields the predictions of files in order, batch by batch, as they are computed.

        Args:
            files: Image files.
            batch_size: Number of images at a time.
            num_workers: As in `predict`.
        """
        wanted = Wanted(self.card.input_views, self.card.mask_scale_bar)
        answers = zip(files, read_all(files, wanted, num_workers), strict=True)
        while batch := list(itertools.islice(answers, batch_size)):
            yield self._predict(batch)

    def _predict(self, batch: Sequence[tuple[Path, Answer]]) -> list[Prediction]:
        policy = self.policy
        readable = [(path, answer) for path, answer in batch if not isinstance(answer, str)]
        made: Iterator[Prediction] = iter(())
        if readable:
            inputs, _ = ViewSource.collate([(torch.from_numpy(a), 0) for _, a in readable])
            inputs = inputs.to(self.device)
            logits = self.network.head(self.network.embed(inputs)).float().cpu().numpy()
            described = self.network.descriptor(inputs).float().cpu().numpy()
            decisions = policy.answer(logits, described)
            made = (decisions.prediction(i, str(path)) for i, (path, _) in enumerate(readable))
        return [policy.unread(str(p), a) if isinstance(a, str) else next(made) for p, a in batch]
