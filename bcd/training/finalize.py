"""The end of a training run: judges and tests its best checkpoint, and writes the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from bcd.audit.checks import Check, worst
from bcd.audit.leaks import find_leaks, leak_figures
from bcd.audit.pairs import write_overlaps
from bcd.audit.short import audit_run
from bcd.config.training import TrainConfig
from bcd.data.catalog import Catalog
from bcd.data.datamodule import SmearDataModule
from bcd.data.quality.profile import Survey
from bcd.data.reading import read_picture
from bcd.data.splits.split import Split
from bcd.evaluation.collect import collect_answers
from bcd.evaluation.decision import Judge, fit_judge
from bcd.evaluation.ood import MOST
from bcd.evaluation.results import Result, evaluate
from bcd.evaluation.robustness import Rows, short_shifts
from bcd.evaluation.thresholds import find_scope
from bcd.inference.checkpoint import network_state, read_content, write_judge
from bcd.models.network import SmearNetwork
from bcd.reporting.figures import draw_curves, save_figure
from bcd.reporting.results import write_results
from bcd.storage import write_text
from bcd.training.report import Facts, write_report
from bcd.training.warnings import loss_warnings

Loggers = Sequence[pl.loggers.Logger]


@dataclass(frozen=True)
class Run:
    """What a training run works on, and what its settings are to be warned of."""

    cfg: TrainConfig
    folder: Path
    catalog: Catalog
    survey: Survey
    split: Split
    warnings: Sequence[str] = ()

    def all_warnings(self, history: Sequence[Mapping[str, float]]) -> list[str]:
        """Those that only the figures of the epochs can give are among them."""
        return [*self.warnings, *loss_warnings(self.cfg, len(self.catalog.classes), history)]


@dataclass(frozen=True)
class Outcome:
    """What came of it: results on val and test, the judge, the audit's checks, short shifts."""

    results: dict[str, Result]
    judge: Judge
    checks: list[Check]
    shifts: Rows


def judge_best(
    run: Run,
    network: SmearNetwork,
    datamodule: SmearDataModule,
    best: Path | None,
    device: torch.device,
    parts: Sequence[str] = ("val", "test"),
) -> tuple[Judge, dict[str, Result]]:
    """Decides on val what to make of answers, then evaluates val and test, on one device.

    Args:
        run: The run.
        network: Gets the best checkpoint's weights.
        datamodule: Gives the pictures.
        best: The checkpoint that was kept as best, which gets the judge; None where none was kept.
        device: Where to compute.
        parts: What is evaluated; val alone where the test part must stay untouched.

    Raises:
        BcdError: An answer is not finite.
    """
    content = None if best is None else read_content(best)
    if content is not None:
        network.load_state_dict(network_state(content))
    answers = {
        part: collect_answers(
            network,
            datamodule.plain_loader(part),
            device,
            f"Evaluating {part}" if "test" in parts else "",
        )
        for part in parts
    }
    trained = collect_answers(network, datamodule.first_views(MOST), device).features
    kind, split = run.cfg.split.kind, run.split
    scope = find_scope(kind, split.clusters_of("val"), split.clusters_of("train"))
    judge = fit_judge(run.cfg.judge, answers["val"], trained, run.catalog.benign, scope)
    if best is not None and content is not None:
        write_judge(best, content, judge.to_plain())
    results = {
        part: evaluate(
            given,
            judge,
            run.catalog,
            run.split.indices(part),
            run.split.clusters_of(part),
            intervals=part == "test",
        )
        for part, given in answers.items()
    }
    return judge, results


def conclude(
    run: Run,
    network: SmearNetwork,
    judge: Judge,
    results: dict[str, Result],
    device: torch.device,
) -> Outcome:
    """Adds what stands beside the figures: leaks, the audit, and how shifts change the answers."""
    cfg, tested = run.cfg, run.split.indices("test")
    found = find_leaks(run.survey, run.split.indices("train"), run.split.indices("val"), tested)
    test = results["test"]
    test.metrics.update(leak_figures(found, tested, test.predictions, run.catalog))
    checks = audit_run(run.catalog, run.split, run.survey, cfg.split, cfg.data)
    masked = cfg.data.mask_scale_bar
    shifted = short_shifts(
        network, judge, run.catalog, tested, cfg.model, cfg.features, masked, device
    )
    return Outcome(results, judge, checks, shifted)


def write_run(
    run: Run,
    outcome: Outcome,
    history: Sequence[Mapping[str, float]],
    step: int,
    loggers: Loggers,
    tested: str,
) -> None:
    """Writes figures, report and loggers' last words.

    Args:
        run: The run.
        outcome: What came of it.
        history: Figures of each epoch.
        step: Steps of the optimizer that were made; what is logged is logged there.
        loggers: The trainer's.
        tested: What the report says of the use of the test part.
    """
    folder = run.folder
    write_results(folder, run.catalog, outcome.results)
    write_overlaps(folder, run.catalog, run.survey, run.split)
    save_figure(draw_curves(history), folder / "figures" / "curves.png")
    facts = Facts(
        run.cfg, run.catalog, run.split, outcome.results, outcome.judge, outcome.checks,
        outcome.shifts, tested, len(history), run.all_warnings(history),
    )  # fmt: skip
    write_report(folder, facts)
    checks = {"verdict": worst(outcome.checks), "checks": [asdict(c) for c in outcome.checks]}
    write_text(folder / "audit.json", json.dumps(checks, indent=1) + "\n")
    for logger in loggers:
        if isinstance(logger, pl.loggers.TensorBoardLogger):
            picture = read_picture(folder / "figures" / "confusion_matrix.png")
            logger.experiment.add_image("test/confusion", picture, step, dataformats="HWC")
        test: dict[str, Any] = outcome.results["test"].metrics
        logger.log_metrics({f"test/{n}": test[n] for n in _LOGGED}, step=step)
        logger.finalize("success")


_LOGGED = ("loss", "accuracy", "precision", "recall", "f1")
