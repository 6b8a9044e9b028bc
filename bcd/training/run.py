"""One training run, from the configuration to a run folder with evaluated checkpoints."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from bcd.cli.overrides import LAST
from bcd.config.check import command_line, instantiate
from bcd.config.training import TrainConfig
from bcd.console import say
from bcd.data.catalog import Catalog
from bcd.data.datamodule import SmearDataModule
from bcd.data.load import load_catalog
from bcd.data.quality.profile import profile_images
from bcd.data.splits.split import Split, make_split
from bcd.data.views import PLAIN
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import write_predictions
from bcd.features.cached import Need, feed
from bcd.inference.checkpoint import Card
from bcd.models.backbones.build import check_backbone, normalisation
from bcd.models.classifier import SmearClassifier
from bcd.models.fitting import FittedClassifier
from bcd.run_folder import write_config, write_run_info
from bcd.storage import typed_path
from bcd.training.checkpointing import CardWriter, WholeCheckpoints
from bcd.training.distributed import SameChance, check_processes, together
from bcd.training.divergence import LossWatch
from bcd.training.finalize import Run, evaluate_best, finalize, write_run
from bcd.training.lr_finder import epochs_of_search, find_learning_rate
from bcd.training.provenance import how_tested
from bcd.training.resume import InPlace, Resumed, check_images, check_resumed, find_resumed
from bcd.training.summary import describe_run, tell_run
from bcd.training.warnings import setting_warnings

VAL_PREDICTIONS = "predictions_val.csv"


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves in memory: figures by part, and the objects, for callers in Python."""

    metrics: dict[str, dict[str, Any]]
    run_dir: Path
    classifier: SmearClassifier
    datamodule: SmearDataModule
    trainer: pl.Trainer


def train(cfg: TrainConfig, tested: bool = True) -> TrainResult | None:
    """Trains, chooses on val, tests, and writes the run folder.

    Args:
        cfg: Checked configuration; `run_dir` is where everything goes.
        tested: Whether the test part is used. A trial of a sweep leaves it untouched and keeps its
            answers on val in `predictions_val.csv`; `test_trained` may do the rest later.

    Returns:
        The figures and objects; None on processes of a distributed run other than the first, and
        where only the learning rate was looked for.

    Raises:
        BcdError: Images, weights or configuration cannot serve.
    """
    started = time.time()
    if not tested and (cfg.resume is not None or cfg.lr_find):
        raise ConfigError("resume and lr_find are for a single run, not for those of a sweep")
    resumed = None if cfg.resume is None else find_resumed(cfg.resume)
    if resumed is not None:
        check_resumed(cfg, resumed)
    ready = _set_up(replace(cfg, resume=None))
    if resumed is not None:
        check_images(resumed, ready.run.catalog, ready.run.split)
    run, network = ready.run, ready.classifier.network
    trainer = _make_trainer(ready, quiet=not tested)
    if trainer.is_global_zero:
        run.split.write(run.folder / "split.csv", run.catalog)
        if tested:
            describe_run(run)
        for line in run.warnings:
            say(f"warning: {line}")
    with _fed(ready, trainer) as device:
        if cfg.lr_find:
            find_learning_rate(cfg, ready.classifier, ready.datamodule, run.folder)
            return None
        with together(trainer):
            _fit(ready, trainer, resumed)
        if not trainer.is_global_zero:
            return None
        ready.datamodule.trainer = None  # from here on all images are this process's
        parts = ("val", "test") if tested else ("val",)
        best = best_checkpoint(trainer)
        policy, results = evaluate_best(run, network, ready.datamodule, best, device, parts)
    if tested:
        outcome = finalize(run, network, policy, results, device)
        history, step = ready.classifier.history, trainer.global_step
        before = resumed is not None and (run.folder / "metrics.json").is_file()
        write_run(run, outcome, history, step, trainer.loggers, how_tested(before))
        tell_run(run.folder, outcome, best, run.all_warnings(history)[len(run.warnings) :])
    else:
        predictions, classes = results["val"].predictions, run.catalog.classes
        write_predictions(run.folder / VAL_PREDICTIONS, predictions, classes)
    data = run.catalog.identity()
    counts, rejected = run.catalog.counts(), len(run.catalog.rejected)
    said = {"data": {**data, **counts}, "rejected": rejected}
    write_run_info(run.folder, started, **said, warnings=run.all_warnings(ready.classifier.history))
    metrics = {name: result.metrics for name, result in results.items()}
    return TrainResult(metrics, run.folder, ready.classifier, ready.datamodule, trainer)


def test_trained(
    cfg: TrainConfig, best: Path, history: Sequence[Mapping[str, float]], step: int, note: str
) -> dict[str, dict[str, Any]]:
    """Tests a run that was trained without: its folder is then as if it had been tested at once.

    Args:
        cfg: The run's configuration.
        best: Its checkpoint that was best on val.
        history: Figures of each of its epochs.
        step: Steps of its optimizer.
        note: What its report says of the use of the test part.

    Returns:
        The figures by part.

    Raises:
        BcdError: The images are not there any more.
    """
    ready = _set_up(cfg)
    run, network = ready.run, ready.classifier.network
    loggers = _loggers(cfg)
    trainer = instantiate(cfg.trainer, logger=loggers or False, **_QUIET)
    with _fed(ready, trainer) as device:
        policy, results = evaluate_best(run, network, ready.datamodule, best, device)
    outcome = finalize(run, network, policy, results, device)
    write_run(run, outcome, history, step, loggers, note)
    return {name: result.metrics for name, result in results.items()}


def _fit(ready: _Ready, trainer: pl.Trainer, resumed: Resumed | None) -> None:
    file = None if resumed is None else str(resumed.file)
    try:
        trainer.fit(ready.classifier, ready.datamodule, ckpt_path=file)
    except SystemExit:  # how Lightning ends when it is interrupted
        if not trainer.interrupted:
            raise
    folder = ready.run.folder
    if trainer.interrupted:
        there = (folder / LAST).is_file()
        again = f"continue with {shlex.quote(f'resume={folder}')}"
        fix = again if there else "no epoch had ended: start again"
        raise BcdError(f"interrupted: {fix}", 130)
    watch = next(c for c in trainer.callbacks if isinstance(c, LossWatch))  # type: ignore[attr-defined]
    if not watch.batches and resumed is None:
        raise BcdError(
            "nothing was trained: trainer.max_epochs, max_steps, max_time and limit_train_batches "
            "leave no batch"
        )


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    """The checkpoint that `callbacks.best` kept; None where none is kept."""
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    return Path(best) if best and Path(best).is_file() else None


@dataclass(frozen=True)
class _Ready:
    """What training and testing work with."""

    run: Run
    datamodule: SmearDataModule
    classifier: SmearClassifier


def _set_up(cfg: TrainConfig) -> _Ready:
    """Reads what is there and makes the network, the same each time for the same configuration."""
    # What Lightning says at the start and end is either in run.json or advertisement.
    for room in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{room}").setLevel(logging.WARNING)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    check_backbone(cfg.model)  # before images are looked through for minutes
    catalog = load_catalog(cfg.data, keep=cfg.model.input_size)
    profile = profile_images(catalog)
    split = make_split(catalog, cfg.split, profile)
    warnings = setting_warnings(cfg, catalog, command_line())
    run = Run(cfg, Path(cfg.run_dir).absolute(), catalog, profile, split, warnings)
    size = cfg.model.input_size
    datamodule = SmearDataModule(catalog, split, cfg.data, cfg.augment, size, cfg.seed)
    return _Ready(run, datamodule, _make_classifier(run, datamodule))


@contextlib.contextmanager
def _fed(ready: _Ready, trainer: pl.Trainer) -> Iterator[torch.device]:
    """While it lasts, what is frozen runs at most once an image; gives the device to evaluate on.

    Args:
        ready: The run.
        trainer: Knows the device and the number of epochs.
    """
    run, datamodule, network = ready.run, ready.datamodule, ready.classifier.network
    epochs = epochs_of_search(run) if run.cfg.lr_find else trainer.max_epochs or -1
    needs = _needs(epochs, datamodule.views, run.split)
    images, device = datamodule.images, trainer.strategy.root_device
    with feed(run.cfg.features, run.cfg.model, network, images, needs, device) as source:
        datamodule.source = source
        yield device
    datamodule.source = images


def _needs(epochs: int, views: int, split: Split) -> list[Need]:
    """Which views of which images the run will ask for in so many epochs; -1 for any number."""
    seen = range(views if epochs < 0 else min(views, epochs))
    watched = sorted([*split.indices("val"), *split.indices("test")])
    return [Need(split.indices("train"), seen), Need(watched, (PLAIN,))]


def _make_classifier(run: Run, datamodule: SmearDataModule) -> SmearClassifier:
    cfg, classes = run.cfg, len(run.catalog.classes)
    weights = _class_weights(run.catalog, run.split) if cfg.model.class_weights else None
    if not cfg.head.fitted:
        scheduler = {} if cfg.lr_find else cfg.scheduler
        return SmearClassifier(
            cfg.model, classes, cfg.optimizer, scheduler, weights, cfg.augment, cfg.head
        )
    views = datamodule.views if datamodule.images.augmenter.changes else 1
    return FittedClassifier(cfg.model, cfg.head, classes, views, cfg.seed, weights)


# A trial of forty has no bar of its own.
_QUIET: dict[str, Any] = {"callbacks": [], "enable_progress_bar": False}


def _loggers(cfg: TrainConfig) -> list[pl.loggers.Logger]:
    return [instantiate(node) for node in cfg.logger.values() if node is not None]


def _make_trainer(ready: _Ready, quiet: bool) -> pl.Trainer:
    run = ready.run
    cfg, catalog, split = run.cfg, run.catalog, run.split
    mean, std = normalisation(cfg.model)
    card = Card(
        classes=list(catalog.classes),
        benign=catalog.benign,
        input_size=cfg.model.input_size,
        data_root=str(typed_path(cfg.data.root).absolute()),
        split=split.hashes(catalog),
        fingerprint=catalog.fingerprint(split.indices("all")),
        groups={
            image.sha256: cluster
            for image, cluster in zip(catalog.images, split.clusters, strict=True)
            if cluster
        },
        config=asdict(cfg),
        mean=mean,
        std=std,
        mask_scale_bar=cfg.data.mask_scale_bar,
    )
    callbacks = [instantiate(node) for node in cfg.callbacks.values() if node is not None]
    given: dict[str, Any] = dict(_QUIET) if quiet else {}
    if quiet:
        callbacks = [c for c in callbacks if not isinstance(c, pl.callbacks.ProgressBar)]
    callbacks += [CardWriter(card), SameChance(), InPlace(), LossWatch()]
    given |= {"callbacks": callbacks, "logger": _loggers(cfg) or False}
    trainer = instantiate(cfg.trainer, **given, default_root_dir=str(run.folder))
    assert isinstance(trainer, pl.Trainer)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    val = len(split.indices("val"))
    check_processes(cfg, trainer, ready.classifier.network, not quiet, val)
    if trainer.is_global_zero:
        write_config(run.folder, cfg)
    return trainer


def _class_weights(catalog: Catalog, split: Split) -> list[float]:
    """Weights inverse to a class's number of training images, 1 on average over images."""
    counts = Counter(catalog.images[i].label for i in split.indices("train"))
    total = sum(counts.values())
    return [total / (len(catalog.classes) * counts[k]) for k in range(len(catalog.classes))]
