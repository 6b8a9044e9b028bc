"""One training run, from the configuration to a run folder with evaluated checkpoints."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from bcd.audit.checks import Check
from bcd.audit.leaks import leak_figures, leaked
from bcd.audit.page import check_rows
from bcd.auditing import audit_run, verdict_line
from bcd.config import TrainConfig
from bcd.config_check import instantiate
from bcd.console import say, show_table
from bcd.data.catalog import Catalog, load_catalog
from bcd.data.datamodule import SmearDataModule
from bcd.data.reading import read_picture
from bcd.data.split import Split, far_from_share, make_split
from bcd.data.survey import Survey, survey_pictures
from bcd.data.views import PLAIN
from bcd.errors import BcdError
from bcd.evaluation.collect import choose_device
from bcd.evaluation.figures import draw_curves, save_figure
from bcd.evaluation.report import write_report
from bcd.evaluation.results import Result, evaluate, metric_rows, write_results
from bcd.features.feeding import Need, feed
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.models.classifier import SmearClassifier
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
        self._card = card

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the card with the val figures of the moment."""
        scores = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        checkpoint["card"] = {**self._card.to_dict(), "val_metrics": scores}


def train(cfg: TrainConfig) -> TrainResult | None:
    """Trains, chooses on val, tests once, and writes the run folder.

    Args:
        cfg: Checked configuration; `run_dir` is where everything goes.

    Returns:
        The figures and objects; None on processes of a distributed run other than the first.

    Raises:
        BcdError: Pictures, weights or configuration cannot serve.
    """
    started = time.time()
    run_dir = Path(cfg.run_dir).absolute()
    # What Lightning says at the start and end is either in run.json or advertisement.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    catalog = load_catalog(cfg.data)
    survey = survey_pictures(catalog)
    split = make_split(catalog, cfg.split, survey)
    size = cfg.model.input_size
    datamodule = SmearDataModule(catalog, split, cfg.data, cfg.augment, size, cfg.seed)
    weights = _class_weights(catalog, split) if cfg.model.class_weights else None
    classifier = SmearClassifier(
        cfg.model, len(catalog.classes), cfg.optimizer, cfg.scheduler, weights
    )
    trainer = _make_trainer(cfg, catalog, split, run_dir)
    if trainer.is_global_zero:
        _describe(catalog, split, cfg, run_dir)
    results = _fit(cfg, trainer, classifier, datamodule, run_dir)
    if not trainer.is_global_zero:
        return None
    _add_leaks(results["test"], catalog, split, survey)
    checks = audit_run(catalog, split, survey, cfg.split, cfg.data)
    _write_run(run_dir, cfg, catalog, split, classifier, trainer, results, checks)
    write_run_info(
        run_dir,
        started,
        data={"root": str(catalog.root), "fingerprint": catalog.fingerprint(), **catalog.counts()},
        rejected=len(catalog.rejected),
    )
    _tell(run_dir, results, verdict_line(checks))
    metrics = {name: result.metrics for name, result in results.items()}
    return TrainResult(metrics, run_dir, classifier, datamodule, trainer)


def _fit(
    cfg: TrainConfig,
    trainer: pl.Trainer,
    classifier: SmearClassifier,
    datamodule: SmearDataModule,
    run_dir: Path,
) -> dict[str, Result]:
    """Trains, and evaluates the best checkpoint; what is frozen runs at most once a picture."""
    resume = _resume_path(cfg.resume)
    needs = _needs(trainer, datamodule.views, datamodule.split)
    pictures, network = datamodule.pictures, classifier.network
    device = trainer.strategy.root_device
    with feed(cfg.features, cfg.model, network, pictures, needs, device) as source:
        datamodule.source = source
        trainer.fit(classifier, datamodule, ckpt_path=resume)
        if trainer.interrupted:
            line = f"interrupted: continue with resume={run_dir}/checkpoints/last.ckpt"
            raise BcdError(line, 130)
        results = _evaluate_best(trainer, classifier, datamodule)
    datamodule.source = pictures
    return results


def _needs(trainer: pl.Trainer, views: int, split: Split) -> list[Need]:
    """Which views of which pictures the run will ask for."""
    epochs = trainer.max_epochs or -1
    seen = range(views if epochs < 0 else min(views, epochs))
    watched = sorted([*split.indices("val"), *split.indices("test")])
    return [Need(split.indices("train"), seen), Need(watched, (PLAIN,))]


def _make_trainer(cfg: TrainConfig, catalog: Catalog, split: Split, run_dir: Path) -> pl.Trainer:
    config = write_config(run_dir, cfg)
    card = Card(
        classes=list(catalog.classes),
        benign=catalog.benign,
        input_size=cfg.model.input_size,
        data_root=str(Path(cfg.data.root).expanduser().absolute()),
        split=split.hashes(catalog),
        config=config,
        mask_scale_bar=cfg.data.mask_scale_bar,
    )
    callbacks = [instantiate(node) for node in cfg.callbacks.values() if node is not None]
    loggers = [instantiate(node) for node in cfg.logger.values() if node is not None]
    trainer = instantiate(
        cfg.trainer,
        callbacks=[*callbacks, CardWriter(card)],
        logger=loggers or False,
        default_root_dir=str(run_dir),
    )
    assert isinstance(trainer, pl.Trainer)
    return trainer


def _describe(catalog: Catalog, split: Split, cfg: TrainConfig, run_dir: Path) -> None:
    """Says what the run is about to use, and writes `split.csv`."""
    split.write(run_dir / "split.csv", catalog)
    sizes = ", ".join(f"{len(split.indices(part))} {part}" for part in ("train", "val", "test"))
    counts = ", ".join(f"{name} {count}" for name, count in catalog.counts().items())
    say(f"{len(catalog.pictures)} pictures ({counts}): {sizes}")
    for line in far_from_share(catalog, split, cfg.split):
        say(f"warning: {line}; groups and neighbours are kept whole")
    reasons = Counter(item.reason for item in catalog.rejected)
    for reason, count in reasons.most_common():
        say(f"turned away: {count} ({reason}); listed in {run_dir / 'report.html'}")


def _resume_path(resume: str | None) -> str | None:
    if resume is not None and not Path(resume).is_file():
        raise BcdError(f"resume={resume}: no such file; give a run's checkpoints/last.ckpt")
    return resume


def _class_weights(catalog: Catalog, split: Split) -> list[float]:
    """Weights inverse to a class's number of training pictures, 1 on average over pictures."""
    counts = Counter(catalog.pictures[i].label for i in split.indices("train"))
    total = sum(counts.values())
    return [total / (len(catalog.classes) * counts[k]) for k in range(len(catalog.classes))]


def _evaluate_best(
    trainer: pl.Trainer, classifier: SmearClassifier, datamodule: SmearDataModule
) -> dict[str, Result]:
    """Evaluates the checkpoint that was best on val, on one device so that n is exact."""
    if not trainer.is_global_zero:
        return {}
    network = classifier.network
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        network.load_state_dict(load_checkpoint(Path(best))[0].state_dict())
    device = choose_device("auto" if trainer.strategy.root_device.type != "cpu" else "cpu")
    return {
        part: evaluate(
            network,
            datamodule.plain_loader(part),
            datamodule.catalog,
            datamodule.split.indices(part),
            device,
            f"Evaluating {part}",
        )
        for part in ("val", "test")
    }


def _add_leaks(test: Result, catalog: Catalog, split: Split, survey: Survey) -> None:
    tested = split.indices("test")
    found = leaked(survey, [*split.indices("train"), *split.indices("val")], tested)
    test.metrics.update(leak_figures(found, tested, test.predictions, catalog))


def _write_run(
    run_dir: Path,
    cfg: TrainConfig,
    catalog: Catalog,
    split: Split,
    classifier: SmearClassifier,
    trainer: pl.Trainer,
    results: dict[str, Result],
    checks: list[Check],
) -> None:
    write_results(run_dir, catalog, results)
    save_figure(draw_curves(classifier.history), run_dir / "figures" / "curves.png")
    write_report(run_dir, cfg.name, catalog, split, results, check_rows(checks))
    for logger in trainer.loggers:
        if isinstance(logger, pl.loggers.TensorBoardLogger):
            picture = read_picture(run_dir / "figures" / "confusion_matrix.png")
            logger.experiment.add_image(
                "test/confusion", picture, trainer.global_step, dataformats="HWC"
            )
        test = {f"test/{name}": results["test"].metrics[name] for name in _LOGGED}
        logger.log_metrics(test, step=trainer.global_step)
        logger.finalize("success")


_LOGGED = ("loss", "accuracy", "precision", "recall", "f1")


def _tell(run_dir: Path, results: dict[str, Result], verdict: str) -> None:
    """Ends with the figures, the audit's verdict and the exact next commands."""
    show_table("Results", ["figure", *results], metric_rows(results))
    say(verdict)
    shown = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    best = shown / "checkpoints" / "best.ckpt"
    say(f"run folder: {shown}  (open report.html)")
    say(f"evaluate:   python eval.py ckpt={best}")
    say(f"predict:    python predict.py ckpt={best} input=<pictures or folder>")
    say(f"curves:     tensorboard --logdir {shown}")
