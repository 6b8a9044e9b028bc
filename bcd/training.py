"""One training run, from the configuration to a run folder with evaluated checkpoints."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from bcd.concluding import Outcome, Run, conclude, judge_best, write_run
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
from bcd.features.feeding import Need, feed
from bcd.inference.checkpoint import Card
from bcd.lr_finding import find_learning_rate
from bcd.models.backbones import check_backbone, normalisation
from bcd.models.classifier import SmearClassifier
from bcd.models.fitting import FittedClassifier
from bcd.runs import write_config, write_run_info


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


def train(cfg: TrainConfig) -> TrainResult | None:
    """Trains, chooses on val, tests once, and writes the run folder.

    Args:
        cfg: Checked configuration; `run_dir` is where everything goes.

    Returns:
        The figures and objects; None on processes of a distributed run other than the first, and
        where only the learning rate was looked for.

    Raises:
        BcdError: Pictures, weights or configuration cannot serve.
    """
    started = time.time()
    run_dir = Path(cfg.run_dir).absolute()
    # What Lightning says at the start and end is either in run.json or advertisement.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    check_backbone(cfg.model)  # before pictures are looked through for minutes
    catalog = load_catalog(cfg.data)
    survey = survey_pictures(catalog)
    run = Run(cfg, run_dir, catalog, survey, make_split(catalog, cfg.split, survey))
    split, size = run.split, cfg.model.input_size
    datamodule = SmearDataModule(catalog, split, cfg.data, cfg.augment, size, cfg.seed)
    classifier = _make_classifier(run, datamodule)
    trainer = _make_trainer(run)
    if cfg.head.fitted and trainer.world_size > 1:
        raise ConfigError(
            f"trainer.devices={trainer.world_size}: head={cfg.head.kind} is fitted in one process; "
            "say trainer.devices=1"
        )
    if trainer.is_global_zero:
        _describe(run)
    outcome = _fit(run, trainer, classifier, datamodule)
    if outcome is None:
        return None
    write_run(run, outcome, classifier.history, trainer)
    write_run_info(
        run_dir,
        started,
        data={"root": str(catalog.root), "fingerprint": catalog.fingerprint(), **catalog.counts()},
        rejected=len(catalog.rejected),
    )
    metrics = {name: result.metrics for name, result in outcome.results.items()}
    return TrainResult(metrics, run_dir, classifier, datamodule, trainer)


def _fit(
    run: Run, trainer: pl.Trainer, classifier: SmearClassifier, datamodule: SmearDataModule
) -> Outcome | None:
    """Trains, and evaluates the best checkpoint; what is frozen runs at most once a picture."""
    cfg, resume = run.cfg, _resume_path(run.cfg.resume)
    needs = _needs(trainer, datamodule.views, run.split)
    pictures, network = datamodule.pictures, classifier.network
    device = trainer.strategy.root_device
    with feed(cfg.features, cfg.model, network, pictures, needs, device) as source:
        datamodule.source = source
        if cfg.lr_find:
            find_learning_rate(cfg, classifier, datamodule, run.folder)
            return None
        trainer.fit(classifier, datamodule, ckpt_path=resume)
        if trainer.interrupted:
            line = f"interrupted: continue with resume={run.folder}/checkpoints/last.ckpt"
            raise BcdError(line, 130)
        if not trainer.is_global_zero:
            return None
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        device = choose_device("auto" if device.type != "cpu" else "cpu")
        judge, results = judge_best(run, network, datamodule, Path(best) if best else None, device)
    datamodule.source = pictures
    return conclude(run, network, judge, results, device)


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


def _make_trainer(run: Run) -> pl.Trainer:
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
            picture.sha256: group
            for picture, group in zip(catalog.pictures, split.groups, strict=True)
            if group
        },
        config=config,
        mean=mean,
        std=std,
        mask_scale_bar=cfg.data.mask_scale_bar,
    )
    callbacks = [instantiate(node) for node in cfg.callbacks.values() if node is not None]
    loggers = [instantiate(node) for node in cfg.logger.values() if node is not None]
    trainer = instantiate(
        cfg.trainer,
        callbacks=[*callbacks, CardWriter(card)],
        logger=loggers or False,
        default_root_dir=str(run.folder),
    )
    assert isinstance(trainer, pl.Trainer)
    return trainer


def _describe(run: Run) -> None:
    """Says what the run is about to use, and writes `split.csv`."""
    catalog, split = run.catalog, run.split
    split.write(run.folder / "split.csv", catalog)
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
