"""Predicts image files with a checkpoint; an unreadable file gets a row with the reason."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcd.config.compose import as_config, read_defaults
from bcd.config.programs import SiteMatchConfig
from bcd.data.input_views import plain_pixels, split_described, views_to_read
from bcd.data.load import expand_inputs
from bcd.data.quality.appearance import Look, choose_evenly, look_at_input
from bcd.data.sandbox import Answer, Wanted, read_all
from bcd.data.views import ViewSource
from bcd.evaluation.collect import choose_device
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.predictions import Prediction, prediction_record
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.site import find_match
from bcd.run_folder import find_checkpoint

LEAST_SIDE = 112  # pixels of an input in which red cells can be measured


class Predictor:
    """A checkpoint that predicts image files; `bcd.load` makes one.

    Args:
        ckpt: A checkpoint, or a folder as in `find_checkpoint`.
        uncalibrated: Whether to accept a checkpoint without a decision policy.
        device: `cpu`, `cuda`, `mps`, or `auto` for the first accelerator, else the CPU.
        site: The `site` group, or a mapping of its keys; None to take images as they are.

    Attributes:
        network: In eval mode, on the device.
        card: The checkpoint's description of itself.
        policy: Calibrates the network's answers and decides which are referred.
        device: Where the network runs.
        match: How every image is matched to the training images; None for not at all.
        looks: Measurements of some of the images that `batches` read, as far as the network gets
            them in their own colours and with `LEAST_SIDE` pixels or more.

    Raises:
        BcdError: There is no such checkpoint or device, it has no decision policy, or the profile
            cannot be used.
    """

    def __init__(
        self,
        ckpt: str | Path,
        *,
        uncalibrated: bool = False,
        device: str = "auto",
        site: SiteMatchConfig | Mapping[str, Any] | None = None,
    ) -> None:
        network, self.card = load_checkpoint(find_checkpoint(str(ckpt)), uncalibrated)
        self.device = choose_device(device)
        self.network = network.eval().to(self.device)
        self.policy = DecisionPolicy.from_plain(self.card.policy)
        self.match = find_match(as_config(SiteMatchConfig, site), self.card)
        self.looks: list[Look] = []

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

    def batches(
        self, files: Sequence[Path], batch_size: int, num_workers: int | None
    ) -> Iterator[list[Prediction]]:
        """Yields the predictions of files in order, batch by batch, as they are computed.

        Args:
            files: Image files.
            batch_size: Number of images at a time.
            num_workers: As in `predict`.
        """
        for batch in self.answers(files, batch_size, num_workers):
            yield [prediction for prediction, _ in batch]

    @torch.inference_mode()
    def answers(
        self, files: Sequence[Path], batch_size: int, num_workers: int | None
    ) -> Iterator[list[tuple[Prediction, Answer]]]:
        """Yields predictions as `batches` does, each with the pixels that the network got.

        Instead of pixels there is the reason where a file could not be read.
        """
        views = self.card.input_views
        wanted = Wanted(views_to_read(views), self.card.mask_scale_bar, self.match)
        answers = zip(files, read_all(files, wanted, num_workers), strict=True)
        self.looks, done, measured = [], 0, set(choose_evenly(len(files)))
        while batch := list(itertools.islice(answers, batch_size)):
            for number, (_, answer) in enumerate(batch, done):
                if number in measured and not isinstance(answer, str):
                    self._look_at(answer)
            done += len(batch)
            made = self._predict(batch)
            yield [(p, self._got(answer)) for p, (_, answer) in zip(made, batch, strict=True)]

    def _got(self, answer: Answer) -> Answer:
        """Of what was read, what the network got."""
        if isinstance(answer, str):
            return answer
        got: NDArray[np.uint8] = split_described(answer[None], self.card.input_views)[1][0]
        return got

    def _look_at(self, packed: NDArray[np.uint8]) -> None:
        pixels = plain_pixels(packed, views_to_read(self.card.input_views))
        if pixels is not None and len(pixels) >= LEAST_SIDE:
            self.looks.append(look_at_input(pixels))

    def _predict(self, batch: Sequence[tuple[Path, Answer]]) -> list[Prediction]:
        policy = self.policy
        readable = [(path, answer) for path, answer in batch if not isinstance(answer, str)]
        made: Iterator[Prediction] = iter(())
        if readable:
            read = np.stack([answer for _, answer in readable])
            images, got = split_described(read, self.card.input_views)
            inputs = network_inputs(list(got)).to(self.device)
            shown = inputs if images is got else network_inputs(list(images)).to(self.device)
            found = (*self.network.outputs(inputs), self.network.descriptor(shown))
            logits, disagreement, described = (part.float().cpu().numpy() for part in found)
            decisions = policy.answer(logits, described, disagreement)
            made = (decisions.prediction(i, str(path)) for i, (path, _) in enumerate(readable))
        return [policy.unread(str(p), a) if isinstance(a, str) else next(made) for p, a in batch]


def network_inputs(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Stacks the pixels of images, as `answers` yields them, into inputs of the network."""
    inputs, _ = ViewSource.collate([(torch.from_numpy(one), 0) for one in pixels])
    return inputs
