"""The end of a training run: policies and tests its best checkpoint, and writes the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from bcd.audit.checks import Check, worst
from bcd.audit.leaks import find_leaks, leak_metrics
from bcd.audit.pairs import write_overlaps
from bcd.audit.run import audit_training_run
from bcd.config.training import TrainConfig
from bcd.data.catalog import Catalog
from bcd.data.datamodule import SmearDataModule
from bcd.data.quality.profile import DataProfile
from bcd.data.reading import read_image
from bcd.data.splits.split import Split
from bcd.evaluation.collect import collect_answers
from bcd.evaluation.decision import DecisionPolicy, fit_policy
from bcd.evaluation.ood import MAX_IMAGES
from bcd.evaluation.results import Result, evaluate
from bcd.evaluation.robustness import Rows, brief_robustness
from bcd.evaluation.thresholds import find_scope
from bcd.inference.checkpoint import network_state, read_content, write_policy
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
    profile: DataProfile
    split: Split
    warnings: Sequence[str] = ()

    def all_warnings(self, history: Sequence[Mapping[str, float]]) -> list[str]:
        """Those that only the figures of the epochs can give are among them."""
        return [*self.warnings, *loss_warnings(self.cfg, len(self.catalog.classes), history)]


@dataclass(frozen=True)
class Outcome:
    """Results on val and test, the decision policy, the audit's checks, and brief robustness."""

    results: dict[str, Result]
    policy: DecisionPolicy
    checks: list[Check]
    corruptions: Rows


def evaluate_best(
    run: Run,
    network: SmearNetwork,
    datamodule: SmearDataModule,
    best: Path | None,
    device: torch.device,
    parts: Sequence[str] = ("val", "test"),
) -> tuple[DecisionPolicy, dict[str, Result]]:
    """Decides on val what to make of answers, then evaluates val and test, on one device.

    Args:
        run: The run.
        network: Gets the best checkpoint's weights.
        datamodule: Gives the images.
        best: The checkpoint that was kept as best, which gets the decision policy; None where none
            was kept.
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
    trained = collect_answers(network, datamodule.first_views(MAX_IMAGES), device).features
    kind, split = run.cfg.split.kind, run.split
    scope = find_scope(kind, split.clusters_of("val"), split.clusters_of("train"))
    policy = fit_policy(run.cfg.decision, answers["val"], trained, run.catalog.benign, scope)
    if best is not None and content is not None:
        write_policy(best, content, policy.to_plain())
    results = {
        part: evaluate(
            given,
            policy,
            run.catalog,
            run.split.indices(part),
            run.split.clusters_of(part),
            intervals=part == "test",
        )
        for part, given in answers.items()
    }
    return policy, results


def finalize(
    run: Run,
    network: SmearNetwork,
    policy: DecisionPolicy,
    results: dict[str, Result],
    device: torch.device,
) -> Outcome:
    """Adds leaks, the audit, and how corruptions change the answers."""
    cfg, tested = run.cfg, run.split.indices("test")
    found = find_leaks(run.profile, run.split.indices("train"), run.split.indices("val"), tested)
    test = results["test"]
    test.metrics.update(leak_metrics(found, tested, test.predictions, run.catalog))
    checks = audit_training_run(run.catalog, run.split, run.profile, cfg.split, cfg.data)
    masked = cfg.data.mask_scale_bar
    corrupted = brief_robustness(
        network, policy, run.catalog, tested, cfg.model, cfg.features, masked, device
    )
    return Outcome(results, policy, checks, corrupted)


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
    write_overlaps(folder, run.catalog, run.profile, run.split)
    save_figure(draw_curves(history), folder / "figures" / "curves.png")
    facts = Facts(
        run.cfg, run.catalog, run.split, outcome.results, outcome.policy, outcome.checks,
        outcome.corruptions, tested, len(history), run.all_warnings(history),
    )  # fmt: skip
    write_report(folder, facts)
    checks = {"verdict": worst(outcome.checks), "checks": [asdict(c) for c in outcome.checks]}
    write_text(folder / "audit.json", json.dumps(checks, indent=1) + "\n")
    for logger in loggers:
        if isinstance(logger, pl.loggers.TensorBoardLogger):
            image = read_image(folder / "figures" / "confusion_matrix.png")
            logger.experiment.add_image("test/confusion", image, step, dataformats="HWC")
        test: dict[str, Any] = outcome.results["test"].metrics
        logger.log_metrics({f"test/{n}": test[n] for n in _LOGGED}, step=step)
        logger.finalize("success")


_LOGGED = ("loss", "accuracy", "precision", "recall", "f1")
