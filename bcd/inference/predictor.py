"""Predicts images with a model; an unreadable one gets a row with the reason."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.compose import as_config, read_defaults
from bcd.config.programs import SiteMatchConfig
from bcd.data.input_views import plain_pixels, split_described, views_to_read
from bcd.data.items import Answer, Item, Wanted
from bcd.data.quality.appearance import Look
from bcd.data.quality.sample import Sample
from bcd.data.sandbox import read_all
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.decision import DecisionPolicy, Decisions
from bcd.evaluation.predictions import Prediction, prediction_record
from bcd.inference.batch.batching import batch_sizes, batches_until_failure
from bcd.inference.batch.inputs import open_inputs
from bcd.inference.exported import SUFFIX, ExportedModel
from bcd.inference.model import Model, ModelFacts
from bcd.inference.site import find_match

LEAST_SIDE = 112  # pixels of an input in which red cells can be measured

_Read = Sequence[tuple[str, Answer]]


def load_model(
    *,
    ckpt: str | Path | None,
    model: str | Path | None,
    uncalibrated: bool,
    device: str,
    verify: str | None = None,
) -> Model:
    """Loads a checkpoint or an exported model; only a checkpoint needs torch.

    Args:
        ckpt: A checkpoint, or a folder as in `find_checkpoint`; None if there is a model.
        model: A file that `bcd export` wrote; None if there is a checkpoint.
        uncalibrated: Whether to accept one without a decision policy.
        device: `cpu`, `cuda`, `mps` (checkpoints only), or `auto` for an accelerator if there is
            one.
        verify: A public key with which the model's signature is checked first; None for no check.

    Raises:
        BcdError: There is no such file or device, it is damaged or not signed, it has no decision
            policy, or a package that it needs is not installed.
    """
    if model is not None:
        return ExportedModel(model, uncalibrated, device, verify)
    assert ckpt is not None  # as checked with the configuration
    try:
        from bcd.inference.checkpoint_model import CheckpointModel
    except ModuleNotFoundError as error:
        raise BcdError(
            f"ckpt={ckpt}: needs the package {error.name}: pip install bcd, or give model=<file "
            "from bcd export>"
        ) from error

    return CheckpointModel.load(ckpt, uncalibrated, device)


def load_any(source: str | Path, uncalibrated: bool, device: str, verify: str | None) -> Model:
    """Loads an exported model if the name ends in .onnx, else a checkpoint; see `load_model`."""
    exported = Path(source).suffix.lower() == SUFFIX
    if verify is not None and not exported:
        raise ConfigError(f"verify={verify}: needs an exported model (*{SUFFIX}), not {source}")
    ckpt, model = (None, source) if exported else (source, None)
    return load_model(
        ckpt=ckpt, model=model, uncalibrated=uncalibrated, device=device, verify=verify
    )


class Predictor:
    """Predicts images with a model; `bcd.load` makes one.

    Args:
        model: A checkpoint or an exported model.
        site: The `site` group, or a mapping of its keys; None to take images as they are.

    Attributes:
        model: As given.
        match: How every image is matched to the training images; None for not at all.
        sample: Some of the images that `answers` read last.

    Raises:
        BcdError: The profile cannot be used.
    """

    def __init__(
        self, model: Model, site: SiteMatchConfig | Mapping[str, Any] | None = None
    ) -> None:
        self.model = model
        self.match = find_match(as_config(SiteMatchConfig, site), model.facts)
        if self.match is not None and isinstance(model, ExportedModel):
            model.refuse_match()
        self.sample = Sample()

    @property
    def facts(self) -> ModelFacts:
        """What the model says about itself."""
        return self.model.facts

    @property
    def wanted(self) -> Wanted:
        """How images have to be read."""
        views = self.facts.input_views
        return Wanted(views_to_read(views), self.facts.mask_scale_bar, self.match)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        return self.facts.classes

    def predict(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> list[dict[str, Any]]:
        """Predicts images.

        Args:
            paths: What `input` of `bcd predict` may be, such as a file, a folder (searched
                recursively), a glob, an archive, or a list of these.
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
        defaults = read_defaults("predict")
        files = open_inputs([str(path) for path in given], defaults["input_column"]).items
        size = batch_size or defaults["batch_size"]
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

    def answers(
        self,
        files: Iterable[Path | Item],
        batch_size: int,
        num_workers: int | None,
        part: int | None = None,
    ) -> Iterator[list[tuple[Prediction, Answer]]]:
        """Yields predictions as `batches` does, each with the pixels that the network got.

        Instead of pixels there is the reason where a file could not be read. If reading fails
        as a whole, what was read before is still answered.

        Args:
            files: As in `batches`.
            batch_size: Number of images at a time.
            num_workers: As in `predict`.
            part: The model gets no batch that goes beyond a multiple of so many images, so that
                answers are the same to the last digit if reading starts there; None for no limit.
        """
        read = read_all(files, self.wanted, num_workers, ahead=batch_size)
        return self.answers_to(read, batch_size, part)

    def answers_to(
        self, read: Iterator[tuple[str, Answer]], batch_size: int, part: int | None = None
    ) -> Iterator[list[tuple[Prediction, Answer]]]:
        """Yields predictions as `answers` does, for images that were read elsewhere.

        Args:
            read: Name of each image, and what `wanted` makes of it or why it could not be read.
            batch_size: Number of images at a time.
            part: As in `answers`.
        """
        self.sample = Sample()
        answers = self.decide(read, batch_size, part)
        yield from batches_until_failure(answers, itertools.repeat(batch_size))

    def decide(
        self, read: Iterator[tuple[str, Answer]], batch_size: int, part: int | None = None
    ) -> Iterator[tuple[Prediction, Answer]]:
        """Yields predictions of images that were read as `wanted`, as `answers` does."""
        size = min(batch_size, self.model.batch or batch_size)
        for batch, decisions in self._decided(read, batch_sizes(size, part or size)):
            yield from self._predictions(batch, decisions)

    def _decided(
        self, read: Iterator[tuple[str, Answer]], sizes: Iterator[int]
    ) -> Iterator[tuple[_Read, Decisions | None]]:
        """Has the model decide about what was read, in order; several calls run at a time."""
        parts = batches_until_failure(read, sizes)
        if self.model.threads == 1:
            yield from ((part, self._decide(part)) for part in parts)
            return
        failure: BaseException | None = None
        with ThreadPoolExecutor(self.model.threads, "deciding") as pool:
            calls: deque[tuple[_Read, Future[Decisions | None]]] = deque()
            try:
                while failure is None:
                    try:
                        part = next(parts, None)
                    except BaseException as error:
                        failure = error
                        break
                    if part is None:
                        break
                    calls.append((part, pool.submit(self._decide, part)))
                    if len(calls) > 2 * self.model.threads:
                        done, call = calls.popleft()
                        yield done, call.result()
                for done, call in calls:
                    yield done, call.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        if failure is not None:
            raise failure

    def _decide(self, part: _Read) -> Decisions | None:
        readable = [answer for _, answer in part if not isinstance(answer, str)]
        return self.model.answer(np.stack(readable)) if readable else None

    def _predictions(
        self, part: _Read, decisions: Decisions | None
    ) -> Iterator[tuple[Prediction, Answer]]:
        unread = DecisionPolicy(calibrated=self.facts.calibrated).unread
        number = 0
        for name, answer in part:
            if isinstance(answer, str):
                self.sample.add(None)
                yield unread(name, answer), answer
                continue
            assert decisions is not None
            self.sample.add(self.shown(answer))
            yield decisions.prediction(number, name), self._got(answer)
            number += 1

    def _got(self, answer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Of what was read, what the network got."""
        got: NDArray[np.uint8] = split_described(answer[None], self.facts.input_views)[1][0]
        return got

    def shown(self, packed: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """The image in its own colours, if it is large enough to be measured."""
        pixels = plain_pixels(packed, views_to_read(self.facts.input_views))
        return None if pixels is None or len(pixels) < LEAST_SIDE else pixels

    @property
    def looks(self) -> list[Look]:
        """Measurements of some of the images that `answers` read last.

        As far as the network gets them in their own colours and with `LEAST_SIDE` pixels or more.
        """
        return self.sample.looks()
