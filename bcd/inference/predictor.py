"""Predicts image files with a checkpoint; an unreadable file gets a row with the reason."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcd.config.compose import as_config, read_defaults
from bcd.config.programs import SiteMatchConfig
from bcd.data.input_views import plain_pixels, split_described, views_to_read
from bcd.data.items import Answer, Item, Wanted
from bcd.data.load import expand_inputs
from bcd.data.quality.appearance import Look, Sample
from bcd.data.sandbox import read_all
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
        self._sample = Sample()

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
        self, files: Iterable[Path | Item], batch_size: int, num_workers: int | None
    ) -> Iterator[list[Prediction]]:
        """Yields the predictions of files in order, batch by batch, as they are computed.

        Args:
            files: Images: files, or bytes with a name. They may come from a generator.
            batch_size: Number of images at a time.
            num_workers: As in `predict`.
        """
        for batch in self.answers(files, batch_size, num_workers):
            yield [prediction for prediction, _ in batch]

    @torch.inference_mode()
    def answers(
        self, files: Iterable[Path | Item], batch_size: int, num_workers: int | None
    ) -> Iterator[list[tuple[Prediction, Answer]]]:
        """Yields predictions as `batches` does, each with the pixels that the network got.

        Instead of pixels there is the reason where a file could not be read.
        """
        views = self.card.input_views
        wanted = Wanted(views_to_read(views), self.card.mask_scale_bar, self.match)
        answers = read_all(files, wanted, num_workers)
        self._sample = Sample()
        while batch := list(itertools.islice(answers, batch_size)):
            for _, answer in batch:
                self._sample.add(None if isinstance(answer, str) else self._shown(answer))
            made = self._predict(batch)
            yield [(p, self._got(answer)) for p, (_, answer) in zip(made, batch, strict=True)]

    def _got(self, answer: Answer) -> Answer:
        """Of what was read, what the network got."""
        if isinstance(answer, str):
            return answer
        got: NDArray[np.uint8] = split_described(answer[None], self.card.input_views)[1][0]
        return got

    def _shown(self, packed: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """The image in its own colours, if it is large enough to be measured."""
        pixels = plain_pixels(packed, views_to_read(self.card.input_views))
        return None if pixels is None or len(pixels) < LEAST_SIDE else pixels

    @property
    def looks(self) -> list[Look]:
        """Measurements of some of the images that `batches` read.

        As far as the network gets them in their own colours and with `LEAST_SIDE` pixels or more.
        """
        return self._sample.looks()

    def _predict(self, batch: Sequence[tuple[str, Answer]]) -> list[Prediction]:
        policy = self.policy
        readable = [(name, answer) for name, answer in batch if not isinstance(answer, str)]
        made: Iterator[Prediction] = iter(())
        if readable:
            read = np.stack([answer for _, answer in readable])
            images, got = split_described(read, self.card.input_views)
            inputs = network_inputs(list(got)).to(self.device)
            shown = inputs if images is got else network_inputs(list(images)).to(self.device)
            found = (*self.network.outputs(inputs), self.network.descriptor(shown))
            logits, disagreement, described = (part.float().cpu().numpy() for part in found)
            decisions = policy.answer(logits, described, disagreement)
            made = (decisions.prediction(i, name) for i, (name, _) in enumerate(readable))
        return [policy.unread(n, a) if isinstance(a, str) else next(made) for n, a in batch]


def network_inputs(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Stacks the pixels of images, as `answers` yields them, into inputs of the network."""
    inputs, _ = ViewSource.collate([(torch.from_numpy(one), 0) for one in pixels])
    return inputs
