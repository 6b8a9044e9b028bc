"""One training run, from the configuration to a run folder with evaluated checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from bcd.config.training import BRIEF, FULL, LOGGED_IMAGES, TrainConfig
from bcd.data.datamodule import SmearDataModule
from bcd.errors import ConfigError
from bcd.evaluation.predictions import write_predictions
from bcd.models.classifier import SmearClassifier
from bcd.run_folder import write_config, write_run_info
from bcd.training.ahead import Ahead
from bcd.training.build import (
    Run,
    cached_features,
    make_callbacks,
    make_classifier,
    make_datamodule,
    make_loggers,
    make_run,
    make_trainer,
)
from bcd.training.distributed import check_processes, distributed
from bcd.training.finalize import evaluate_best, finalize, write_run
from bcd.training.fit import best_checkpoint, fit
from bcd.training.interruption import explained
from bcd.training.lr_finder import epochs_of_search, find_learning_rate
from bcd.training.neighbours import find_shown
from bcd.training.projector import write_projector
from bcd.training.provenance import how_tested
from bcd.training.resume import Resumed, check_images, check_resumed, find_resumed
from bcd.training.summary import describe_run, print_results, print_warnings
from bcd.training.tensorboard import boards_of

VAL_PREDICTIONS = "predictions_val.csv"


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves in memory: figures by subset, and the objects, for callers in Python."""

    metrics: dict[str, dict[str, Any]]
    run_dir: Path
    classifier: SmearClassifier
    datamodule: SmearDataModule
    trainer: pl.Trainer


def train(cfg: TrainConfig, tested: bool = True, ahead: Ahead | None = None) -> TrainResult | None:
    """Trains, chooses on val, tests, and writes the run folder.

    Args:
        cfg: Checked configuration; `run_dir` is where everything is written.
        tested: Whether the test set is used. A trial of a sweep leaves it untouched and writes its
            predictions on val to `predictions_val.csv`; `test_trained` may test it later.
        ahead: A second process that has begun to read the images; None for none.

    Returns:
        The figures and objects; None on processes of a distributed run other than the first, and
        with `lr_find`.

    Raises:
        BcdError: Images, weights or configuration cannot be used, or the run was interrupted.
    """
    with explained(Path(cfg.run_dir).absolute()):
        return _train(cfg, tested, ahead)


def _train(cfg: TrainConfig, tested: bool, ahead: Ahead | None) -> TrainResult | None:
    started = time.time()
    resumed = _find_resumed(cfg, tested)
    cfg = replace(cfg, resume=None)

    run = make_run(cfg, ahead)
    if not tested:
        run = _as_trial(run)
    if resumed is not None:
        check_images(resumed, run.catalog, run.split)
    datamodule = make_datamodule(run)
    classifier = make_classifier(run)
    network = classifier.network
    callbacks = make_callbacks(run, quiet=not tested)
    loggers = make_loggers(cfg.logger)
    trainer = make_trainer(cfg.trainer, run.folder, callbacks, loggers, quiet=not tested)
    check_processes(cfg, trainer, network, tested, len(run.split.indices("val")))
    if trainer.is_global_zero:
        _begin_folder(run, tested)

    device, epochs = trainer.strategy.root_device, _epochs(run, trainer)
    with cached_features(run, datamodule, network, epochs, device) as approximation:
        if approximation:
            run = run.with_warning(approximation)
            if trainer.is_global_zero:
                print_warnings([approximation])
        if cfg.lr_find:
            find_learning_rate(cfg.trainer, classifier, datamodule, run.folder)
            return None
        with distributed(trainer):
            fit(trainer, classifier, datamodule, run.folder, resumed)
        if not trainer.is_global_zero:
            return None
        datamodule.trainer = None  # this process evaluates all images
        best, subsets = best_checkpoint(trainer), ("val", "test") if tested else ("val",)
        policy, results = evaluate_best(run, network, datamodule, best, device, subsets)
        if tested:
            shown = find_shown(run, network, datamodule, results["test"], epochs, device)
        if tested and cfg.logs_images and boards_of(trainer.loggers):
            write_projector(run.folder, network, datamodule, results["test"], device)

    history = classifier.history
    if tested:
        outcome = finalize(run, network, datamodule, policy, results, shown, device)
        before = resumed is not None and (run.folder / "metrics.json").is_file()
        write_run(run, outcome, history, trainer.global_step, trainer.loggers, how_tested(before))
        print_results(run.folder, run.catalog.classes, outcome, best)
        print_warnings(run.all_warnings(history)[len(run.warnings) :])
    else:
        predictions = results["val"].predictions
        write_predictions(run.folder / VAL_PREDICTIONS, predictions, run.catalog.classes)
    _write_info(run, started, history)
    metrics = {name: result.metrics for name, result in results.items()}
    return TrainResult(metrics, run.folder, classifier, datamodule, trainer)


def test_trained(
    cfg: TrainConfig, best: Path, history: Sequence[Mapping[str, float]], step: int, note: str
) -> dict[str, dict[str, Any]]:
    """Tests a run that was trained without a test, as if it had been tested at once.

    Args:
        cfg: The run's configuration.
        best: Its checkpoint that was best on val.
        history: Figures of each of its epochs.
        step: Steps of its optimizer.
        note: What its report says about the use of the test set.

    Returns:
        The figures by subset.

    Raises:
        BcdError: The images are no longer there.
    """
    run = make_run(cfg)
    datamodule = make_datamodule(run)
    network = make_classifier(run).network
    trainer = make_trainer(cfg.trainer, run.folder, [], make_loggers(cfg.logger), quiet=True)
    device, epochs = trainer.strategy.root_device, _epochs(run, trainer)
    with cached_features(run, datamodule, network, epochs, device) as approximation:
        if approximation:
            run = run.with_warning(approximation)
        policy, results = evaluate_best(run, network, datamodule, best, device)
        shown = find_shown(run, network, datamodule, results["test"], epochs, device)
    outcome = finalize(run, network, datamodule, policy, results, shown, device)
    write_run(run, outcome, history, step, trainer.loggers, note)
    return {name: result.metrics for name, result in results.items()}


def _find_resumed(cfg: TrainConfig, tested: bool) -> Resumed | None:
    """The checkpoint to resume from, checked against the configuration; None to start."""
    if not tested and (cfg.resume is not None or cfg.lr_find):
        raise ConfigError("resume and lr_find are for a single run, not for those of a sweep")
    if cfg.resume is None:
        return None
    resumed = find_resumed(cfg.resume)
    check_resumed(cfg, resumed)
    return resumed


def _as_trial(run: Run) -> Run:
    """The same run as one of a sweep, which has the brief report and logs no photographs."""
    cfg, lines = run.cfg, list(run.warnings)
    if cfg.report == FULL:
        lines.append(
            f"report={FULL} has no effect in a run of a sweep, whose best run gets the brief "
            "report; train that configuration once more with it"
        )
    if cfg.logs_images:
        lines.append("logger.images=true has no effect in a run of a sweep")
    logger = {**cfg.logger, LOGGED_IMAGES: False} if cfg.logs_images else cfg.logger
    return replace(run, cfg=replace(cfg, report=BRIEF, logger=logger), warnings=lines)


def _begin_folder(run: Run, tested: bool) -> None:
    """Writes configuration and split into the run folder, and prints what the run uses."""
    write_config(run.folder, run.cfg)
    run.split.write(run.folder / "split.csv", run.catalog)
    if tested:
        describe_run(run)
    print_warnings(run.warnings)


def _epochs(run: Run, trainer: pl.Trainer) -> int:
    """Number of epochs, each of which may need another view of the images; -1 for any number."""
    cfg = run.cfg
    if cfg.lr_find:
        images = len(run.split.indices("train"))
        return epochs_of_search(images, cfg.data.batch_size, cfg.trainer)
    return -1 if cfg.head.fitted else trainer.max_epochs or -1  # a fitted head uses all views


def _write_info(run: Run, started: float, history: Sequence[Mapping[str, float]]) -> None:
    catalog = run.catalog
    write_run_info(
        run.folder,
        started,
        data={**catalog.identity(), **catalog.counts()},
        rejected=len(catalog.rejected),
        weights=[source.to_plain() for source in run.sources],
        warnings=run.all_warnings(history),
    )
