"""One training run, from the configuration to a run folder with evaluated checkpoints."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from bcd.concluding import Run, conclude, judge_best, tell_run, write_run
from bcd.config import TrainConfig
from bcd.config_check import instantiate
from bcd.console import say
from bcd.data.catalog import Catalog, load_catalog
from bcd.data.datamodule import SmearDataModule
from bcd.data.split import Split, far_from_share, make_split
from bcd.data.survey import survey_pictures
from bcd.data.views import PLAIN
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.collect import choose_device
from bcd.evaluation.predictions import write_predictions
from bcd.features.feeding import Need, feed
from bcd.inference.checkpoint import Card
from bcd.lr_finding import find_learning_rate
from bcd.models.backbones import check_backbone, normalisation
from bcd.models.classifier import SmearClassifier
from bcd.models.fitting import FittedClassifier
from bcd.runs import write_config, write_run_info

VAL_PREDICTIONS = "predictions_val.csv"


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves in memory: figures by part, and the objects, for callers in Python."""

    metrics: dict[str, dict[str, Any]]
    run_dir: Path
    classifier: SmearClassifier
    datamodule: SmearDataModule
    trainer: pl.Trainer


class CardWriter(pl.Callback):
    """Puts the card into every checkpoint."""

    def __init__(self, card: Card) -> None:
        self._plain = card.to_dict()  # once: it lists every picture, and is saved twice an epoch

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the card with the val figures of the moment."""
        scores = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        checkpoint["card"] = {**self._plain, "val_metrics": scores}


def train(cfg: TrainConfig, tested: bool = True) -> TrainResult | None:
    """Trains, chooses on val, tests once, and writes the run folder.

    Args:
        cfg: Checked configuration; `run_dir` is where everything goes.
        tested: Whether the test part is used. A trial of a sweep leaves it untouched and keeps its
            answers on val in `predictions_val.csv`; `test_trained` may do the rest later.

    Returns:
        The figures and objects; None on processes of a distributed run other than the first, and
        where only the learning rate was looked for.

    Raises:
        BcdError: Pictures, weights or configuration cannot serve.
    """
    started = time.time()
    ready = _set_up(cfg)
    run, network = ready.run, ready.classifier.network
    trainer = _make_trainer(run, quiet=not tested)
    if trainer.is_global_zero:
        _describe(run, quiet=not tested)
    with _fed(ready, trainer) as device:
        if cfg.lr_find:
            find_learning_rate(cfg, ready.classifier, ready.datamodule, run.folder)
            return None
        _fit(ready, trainer)
        if not trainer.is_global_zero:
            return None
        parts = ("val", "test") if tested else ("val",)
        best = best_checkpoint(trainer)
        judge, results = judge_best(run, network, ready.datamodule, best, device, parts)
    if tested:
        outcome = conclude(run, network, judge, results, device)
        history, step = ready.classifier.history, trainer.global_step
        write_run(run, outcome, history, step, trainer.loggers)
        tell_run(run.folder, outcome)
    else:
        said, classes = results["val"].predictions, run.catalog.classes
        write_predictions(run.folder / VAL_PREDICTIONS, said, classes, run.catalog.benign)
    data = {"root": str(run.catalog.root), "fingerprint": run.catalog.fingerprint()}
    counts, rejected = run.catalog.counts(), len(run.catalog.rejected)
    write_run_info(run.folder, started, data={**data, **counts}, rejected=rejected)
    metrics = {name: result.metrics for name, result in results.items()}
    return TrainResult(metrics, run.folder, ready.classifier, ready.datamodule, trainer)


def test_trained(
    cfg: TrainConfig, best: Path, history: Sequence[Mapping[str, float]], step: int
) -> dict[str, dict[str, Any]]:
    """Tests a run that was trained without: its folder is then as if it had been tested at once.

    Args:
        cfg: The run's configuration.
        best: Its checkpoint that was best on val.
        history: Figures of each of its epochs.
        step: Steps of its optimizer.

    Returns:
        The figures by part.

    Raises:
        BcdError: The pictures are not there any more.
    """
    ready = _set_up(cfg)
    run, network = ready.run, ready.classifier.network
    loggers = _loggers(cfg)
    trainer = instantiate(cfg.trainer, logger=loggers or False, **_QUIET)
    with _fed(ready, trainer) as device:
        judge, results = judge_best(run, network, ready.datamodule, best, device)
    outcome = conclude(run, network, judge, results, device)
    write_run(run, outcome, history, step, loggers)
    return {name: result.metrics for name, result in results.items()}


def _fit(ready: _Ready, trainer: pl.Trainer) -> None:
    resume = _resume_path(ready.run.cfg.resume)
    try:
        trainer.fit(ready.classifier, ready.datamodule, ckpt_path=resume)
    except SystemExit:  # how Lightning ends when it is interrupted
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        line = f"interrupted: continue with resume={ready.run.folder}/checkpoints/last.ckpt"
        raise BcdError(line, 130)


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    """The checkpoint that was best on val; None where none is kept."""
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    return Path(best) if best else None


@dataclass(frozen=True)
class _Ready:
    """What training and testing work with."""

    run: Run
    datamodule: SmearDataModule
    classifier: SmearClassifier


def _set_up(cfg: TrainConfig) -> _Ready:
    """Reads what is there and makes the network, the same each time for the same configuration."""
    # What Lightning says at the start and end is either in run.json or advertisement.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    check_backbone(cfg.model)  # before pictures are looked through for minutes
    catalog = load_catalog(cfg.data)
    survey = survey_pictures(catalog)
    split = make_split(catalog, cfg.split, survey)
    run = Run(cfg, Path(cfg.run_dir).absolute(), catalog, survey, split)
    size = cfg.model.input_size
    datamodule = SmearDataModule(catalog, split, cfg.data, cfg.augment, size, cfg.seed)
    return _Ready(run, datamodule, _make_classifier(run, datamodule))


@contextlib.contextmanager
def _fed(ready: _Ready, trainer: pl.Trainer) -> Iterator[torch.device]:
    """While it lasts, what is frozen runs at most once a picture; gives the device to evaluate on.

    Args:
        ready: The run.
        trainer: Knows the device and the number of epochs.
    """
    run, datamodule, network = ready.run, ready.datamodule, ready.classifier.network
    needs = _needs(trainer, datamodule.views, run.split)
    pictures, device = datamodule.pictures, trainer.strategy.root_device
    with feed(run.cfg.features, run.cfg.model, network, pictures, needs, device) as source:
        datamodule.source = source
        yield choose_device("auto" if device.type != "cpu" else "cpu")
    datamodule.source = pictures


def _needs(trainer: pl.Trainer, views: int, split: Split) -> list[Need]:
    """Which views of which pictures the run will ask for."""
    epochs = trainer.max_epochs or -1
    seen = range(views if epochs < 0 else min(views, epochs))
    watched = sorted([*split.indices("val"), *split.indices("test")])
    return [Need(split.indices("train"), seen), Need(watched, (PLAIN,))]


def _make_classifier(run: Run, datamodule: SmearDataModule) -> SmearClassifier:
    cfg, classes = run.cfg, len(run.catalog.classes)
    weights = _class_weights(run.catalog, run.split) if cfg.model.class_weights else None
    if not cfg.head.fitted:
        return SmearClassifier(
            cfg.model, classes, cfg.optimizer, cfg.scheduler, weights, cfg.augment, cfg.head
        )
    views = datamodule.views if datamodule.pictures.augmenter.changes else 1
    return FittedClassifier(cfg.model, cfg.head, classes, views, cfg.seed, weights)


# A trial of forty has no bar of its own.
_QUIET: dict[str, Any] = {"callbacks": [], "enable_progress_bar": False}


def _loggers(cfg: TrainConfig) -> list[pl.loggers.Logger]:
    return [instantiate(node) for node in cfg.logger.values() if node is not None]


def _make_trainer(run: Run, quiet: bool) -> pl.Trainer:
    cfg, catalog, split = run.cfg, run.catalog, run.split
    config = write_config(run.folder, cfg)
    mean, std = normalisation(cfg.model)
    card = Card(
        classes=list(catalog.classes),
        benign=catalog.benign,
        input_size=cfg.model.input_size,
        data_root=str(Path(cfg.data.root).expanduser().absolute()),
        split=split.hashes(catalog),
        groups={
            picture.sha256: cluster
            for picture, cluster in zip(catalog.pictures, split.clusters, strict=True)
            if cluster
        },
        config=config,
        mean=mean,
        std=std,
        mask_scale_bar=cfg.data.mask_scale_bar,
    )
    callbacks = [instantiate(node) for node in cfg.callbacks.values() if node is not None]
    given: dict[str, Any] = dict(_QUIET) if quiet else {}
    if quiet:
        callbacks = [c for c in callbacks if not isinstance(c, pl.callbacks.ProgressBar)]
    given |= {"callbacks": [*callbacks, CardWriter(card)], "logger": _loggers(cfg) or False}
    trainer = instantiate(cfg.trainer, **given, default_root_dir=str(run.folder))
    assert isinstance(trainer, pl.Trainer)
    if cfg.head.fitted and trainer.world_size > 1:
        raise ConfigError(
            f"trainer.devices={trainer.world_size}: head={cfg.head.kind} is fitted in one process; "
            "say trainer.devices=1"
        )
    return trainer


def _describe(run: Run, quiet: bool) -> None:
    """Says what the run is about to use, and writes `split.csv`."""
    catalog, split = run.catalog, run.split
    split.write(run.folder / "split.csv", catalog)
    if quiet:
        return
    sizes = ", ".join(f"{len(split.indices(part))} {part}" for part in ("train", "val", "test"))
    counts = ", ".join(f"{name} {count}" for name, count in catalog.counts().items())
    say(f"{len(catalog.pictures)} pictures ({counts}): {sizes}")
    for line in far_from_share(catalog, split, run.cfg.split):
        say(f"warning: {line}; groups and neighbours are kept whole")
    reasons = Counter(item.reason for item in catalog.rejected)
    for reason, count in reasons.most_common():
        say(f"turned away: {count} ({reason}); listed in {run.folder / 'report.html'}")


def _resume_path(resume: str | None) -> str | None:
    if resume is not None and not Path(resume).is_file():
        raise BcdError(f"resume={resume}: no such file; give a run's checkpoints/last.ckpt")
    return resume


def _class_weights(catalog: Catalog, split: Split) -> list[float]:
    """Weights inverse to a class's number of training pictures, 1 on average over pictures."""
    counts = Counter(catalog.pictures[i].label for i in split.indices("train"))
    total = sum(counts.values())
    return [total / (len(catalog.classes) * counts[k]) for k in range(len(catalog.classes))]
