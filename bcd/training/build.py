"""Builds what a training run works with: data, model, callbacks, loggers and trainer."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from bcd.audit.checks import Check
from bcd.audit.pairs import overlap_sheet
from bcd.config.check import command_line, instantiate
from bcd.config.training import LOGGED_IMAGES, TrainConfig
from bcd.data.catalog import Catalog
from bcd.data.datamodule import SmearDataModule
from bcd.data.input_views import definition
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.split import Split
from bcd.data.views import PLAIN
from bcd.features.cached import Need, cached_source
from bcd.inference.checkpoint import Card
from bcd.models.backbones.build import check_backbone, normalization
from bcd.models.backbones.run_weights import WeightsSource, weights_sources
from bcd.models.classifier import SmearClassifier
from bcd.models.network import SmearNetwork
from bcd.storage import typed_path
from bcd.training.ahead import Ahead, Asked, Images
from bcd.training.checkpointing import AtomicCheckpointIO, CardWriter
from bcd.training.distributed import RestoreRandomState
from bcd.training.divergence import DivergenceCheck
from bcd.training.interruption import InterruptCheck
from bcd.training.resume import RelocateCheckpoints
from bcd.training.tensorboard import BoardCallback
from bcd.training.warnings import loss_warnings, pretraining_warnings, setting_warnings

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """The images of a training run, their split, its first weights, and warnings about settings.

    Where there is a second process, `ahead`, it audits the images meanwhile.
    """

    cfg: TrainConfig
    folder: Path
    catalog: Catalog
    profile: DataProfile
    split: Split
    warnings: Sequence[str] = ()
    sources: Sequence[WeightsSource] = ()
    ahead: Ahead | None = None

    def audit(self) -> tuple[list[Check], bytes | None]:
        """The brief audit, and the sheet of overlaps that the split separates."""
        images = Images(self.catalog, self.profile, self.split)
        if self.ahead is not None:
            return self.ahead.checks(images), self.ahead.sheet(images)
        asked = Asked.of(self.cfg.data, self.cfg.split, self.cfg.model)
        return asked.checks(images), overlap_sheet(*images)

    def begin(self, job: Callable[[], T]) -> Callable[[], T]:
        """Begins a job in the second process, if there is one; returns what gives its result."""
        return job if self.ahead is None else self.ahead.begin(job)

    def with_warning(self, line: str) -> Run:
        """The same run with one more warning."""
        return replace(self, warnings=[*self.warnings, line])

    def all_warnings(self, history: Sequence[Mapping[str, float]]) -> list[str]:
        """The warnings about settings, and those about the figures of the epochs."""
        return [*self.warnings, *loss_warnings(self.cfg, len(self.catalog.classes), history)]


def make_run(cfg: TrainConfig, ahead: Ahead | None = None) -> Run:
    """Seeds all random generators, reads the images and splits them.

    Args:
        cfg: Checked configuration.
        ahead: A second process that has begun to read the images; None for none.

    Raises:
        BcdError: The images or the backbone are not available, or the images cannot be split.
    """
    # run.json holds what is of use in Lightning's messages.
    for package in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{package}").setLevel(logging.WARNING)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    check_backbone(cfg.model)  # before minutes are spent on reading images
    sources = weights_sources(cfg.model)
    asked = Asked.of(cfg.data, cfg.split, cfg.model)
    if ahead is not None and ahead.asked != asked:
        ahead = None
    catalog, profile, split = asked.images() if ahead is None else ahead.images()
    warnings = setting_warnings(cfg, catalog, command_line())
    tested = [catalog.images[i].sha256 for i in split.indices("test")]
    warnings += pretraining_warnings(sources, tested)
    folder = Path(cfg.run_dir).absolute()
    return Run(cfg, folder, catalog, profile, split, warnings, sources, ahead)


def make_datamodule(run: Run) -> SmearDataModule:
    """Makes the loaders of the run's images."""
    cfg = run.cfg
    return SmearDataModule(
        cfg.data,
        cfg.split,
        cfg.augment,
        cfg.model.input_size,
        cfg.seed,
        cfg.model.views,
        catalog=run.catalog,
        subsets=run.split,
    )


def make_classifier(run: Run) -> SmearClassifier:
    """Makes the model with its pretrained weights; the head is drawn at random."""
    cfg = run.cfg
    weights = _class_weights(run.catalog, run.split) if cfg.model.class_weights else None
    return SmearClassifier(
        cfg.model,
        len(run.catalog.classes),
        cfg.optimizer,
        {} if cfg.lr_find else cfg.scheduler,
        weights,
        cfg.augment,
        cfg.head,
        cfg.seed,
    )


def make_loggers(logger: Mapping[str, Any]) -> list[pl.loggers.Logger]:
    """Makes the loggers of the `logger` group."""
    nodes = [node for name, node in logger.items() if name != LOGGED_IMAGES]
    return [instantiate(node) for node in nodes if node is not None]


def make_callbacks(run: Run, quiet: bool) -> list[pl.Callback]:
    """Makes the callbacks of the `callbacks` group and those that every run has.

    Args:
        run: The run.
        quiet: Whether to leave progress bars and logged images out.
    """
    made = [instantiate(node) for node in run.cfg.callbacks.values() if node is not None]
    if quiet:
        made = [c for c in made if not isinstance(c, pl.callbacks.ProgressBar)]
    board = BoardCallback(images=run.cfg.logs_images and not quiet)
    own = [board, CardWriter(_card(run)), RestoreRandomState(), RelocateCheckpoints()]
    return [*made, *own, DivergenceCheck(), InterruptCheck()]


def make_trainer(
    trainer: Mapping[str, Any],
    folder: Path,
    callbacks: Sequence[pl.Callback],
    loggers: Sequence[pl.loggers.Logger],
    quiet: bool,
) -> pl.Trainer:
    """Makes the Trainer.

    Args:
        trainer: The `trainer` group.
        folder: The run folder.
        callbacks: The run's callbacks.
        loggers: The run's loggers; may be empty.
        quiet: Whether to leave progress bars out.
    """
    given: dict[str, Any] = {"callbacks": [*callbacks], "logger": [*loggers] or False}
    if quiet:  # a trial of a multirun shows no progress of its own
        given["enable_progress_bar"] = False
    made: pl.Trainer = instantiate(trainer, **given, default_root_dir=str(folder))
    if type(made.strategy.checkpoint_io) is TorchCheckpointIO:
        made.strategy.checkpoint_io = AtomicCheckpointIO()
    return made


@contextlib.contextmanager
def cached_features(
    run: Run, datamodule: SmearDataModule, network: SmearNetwork, epochs: int, device: torch.device
) -> Iterator[str]:
    """Within the block, the frozen blocks run at most once for each view of an image.

    Args:
        run: The run.
        datamodule: Its loaders read cached features within the block, where this is possible.
        network: Its frozen prefix is skipped for these.
        epochs: Number of epochs, each of which may need another view; -1 for any number.
        device: Where to compute.

    Yields:
        What of the features that are trained on is approximate; empty if they are exact.

    Raises:
        BcdError: The features cannot be computed or stored.
    """
    split, images = run.split, datamodule.images
    views = cached_views(datamodule, epochs)
    evaluated = sorted([*split.indices("val"), *split.indices("test")])
    needs = [Need(split.indices("train"), views), Need(evaluated, (PLAIN,))]
    features, model = run.cfg.features, run.cfg.model
    with cached_source(features, model, network, images, needs, device, training=True) as source:
        datamodule.source = source
        yield source.approximation
    datamodule.source = images


def cached_views(datamodule: SmearDataModule, epochs: int) -> range:
    """Views of each training image that so many epochs use; -1 for any number."""
    return range(datamodule.views if epochs < 0 else min(datamodule.views, epochs))


def _card(run: Run) -> Card:
    """What the run's checkpoints record about it."""
    cfg, catalog, split = run.cfg, run.catalog, run.split
    mean, std = normalization(cfg.model)
    clusters = zip(catalog.images, split.clusters, strict=True)
    return Card(
        classes=list(catalog.classes),
        benign=catalog.benign,
        input_size=cfg.model.input_size,
        views=[definition(view) for view in cfg.model.input_views()],
        data_root=str(typed_path(cfg.data.root).absolute()),
        split=split.hashes(catalog),
        fingerprint=catalog.fingerprint(split.indices("all")),
        groups={image.sha256: cluster for image, cluster in clusters if cluster},
        config=asdict(cfg),
        pretrained_on=sorted(set().union(*(source.images for source in run.sources))),
        mean=mean,
        std=std,
        mask_scale_bar=cfg.data.mask_scale_bar,
    )


def _class_weights(catalog: Catalog, split: Split) -> list[float]:
    """Weights inverse to a class's number of training images, 1 on average over images."""
    counts = Counter(catalog.images[i].label for i in split.indices("train"))
    total = sum(counts.values())
    return [total / (len(catalog.classes) * counts[k]) for k in range(len(catalog.classes))]
