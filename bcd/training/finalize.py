"""The end of a training run: evaluates its best checkpoint and writes the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray

from bcd.audit.checks import Check, worst
from bcd.audit.leaks import find_leaks, leak_metrics
from bcd.audit.pairs import write_overlaps
from bcd.config.training import FULL
from bcd.data.datamodule import SmearDataModule
from bcd.data.quality.appearance import measure_appearance
from bcd.data.splits.files import file_names
from bcd.data.views import PLAIN
from bcd.errors import BcdError
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.brief_robustness import brief_robustness, brief_table
from bcd.evaluation.collect import collect_answers
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.ood import Subspace, fit_detector, thinned
from bcd.evaluation.policy_fitting import fit_policy
from bcd.evaluation.results import Result, evaluate
from bcd.evaluation.robustness_table import Rows
from bcd.evaluation.thresholds import find_scope
from bcd.features.describe import describe
from bcd.inference.checkpoint import write_policy
from bcd.models.checkpoint_content import network_state, read_content
from bcd.models.network import SmearNetwork
from bcd.reporting.document import Block, Section
from bcd.reporting.results import write_curves, write_results
from bcd.storage import write_text
from bcd.training.attributions import Attributions, attribute_answers
from bcd.training.build import Run
from bcd.training.examples import example_blocks
from bcd.training.facts import Facts
from bcd.training.neighbours import Shown
from bcd.training.report import write_report
from bcd.training.tensorboard import log_test
from bcd.training.white_cells import cell_sections

Loggers = Sequence[pl.loggers.Logger]


@dataclass(frozen=True)
class Outcome:
    """Results, policy, audit and its sheet, robustness to corruptions, examples, more sections."""

    results: dict[str, Result]
    policy: DecisionPolicy
    checks: list[Check]
    sheet: bytes | None
    corruptions: Rows
    examples: list[Block]
    more: list[Section]


def evaluate_best(
    run: Run,
    network: SmearNetwork,
    datamodule: SmearDataModule,
    best: Path | None,
    device: torch.device,
    subsets: Sequence[str] = ("val", "test"),
) -> tuple[DecisionPolicy, dict[str, Result]]:
    """Fits the decision policy on val, then evaluates val and test.

    Args:
        run: The run.
        network: Gets the weights of the best checkpoint.
        datamodule: Gives the images.
        best: The checkpoint that was kept as best, which gets the decision policy; None where none
            was kept.
        device: Where to compute.
        subsets: What to evaluate; val alone where the test set must stay untouched.

    Returns:
        The policy, and the results by subset.

    Raises:
        BcdError: An answer is not finite.
    """
    content = None if best is None else read_content(best)
    if content is not None:
        network.load_state_dict(network_state(content))
    split, described = run.split, _describe(run, network, datamodule, device, subsets)
    answers = {
        subset: collect_answers(
            network,
            datamodule.plain_loader(subset),
            device,
            described[subset],
            f"Evaluating {subset}" if "test" in subsets else "",
        )
        for subset in subsets
    }
    files = file_names([run.catalog.images[i] for i in split.indices("val")])
    scope = find_scope(
        run.cfg.split.kind, split.clusters_of("val"), split.clusters_of("train"),
        any(split.groups), files,
    )  # fmt: skip
    detector = _fit_detector(run, described, grouped=scope.groups is not None)
    policy = fit_policy(
        run.cfg.decision, answers["val"], detector, run.catalog.benign, scope,
        split.class_shares("train", run.catalog),
    )  # fmt: skip
    catalog = replace(run.catalog, kept=None)
    begun = {
        subset: run.begin(
            partial(
                evaluate,
                given,
                policy,
                catalog,
                split.indices(subset),
                split.clusters_of(subset),
                intervals=subset == "test",
            )
        )
        for subset, given in answers.items()
    }
    if best is not None and content is not None:
        appearance = measure_appearance(
            run.catalog, split.indices("train"), run.cfg.data.mask_scale_bar
        )
        plain = None if appearance is None else appearance.to_plain()
        write_policy(best, content, policy.to_plain(), plain)
    results = {subset: result() for subset, result in begun.items()}
    return policy, results


def _describe(
    run: Run,
    network: SmearNetwork,
    datamodule: SmearDataModule,
    device: torch.device,
    subsets: Sequence[str],
) -> dict[str, NDArray[np.float32]]:
    """Out-of-distribution descriptors of the plain images of train and of each subset."""
    cfg, images = run.cfg, datamodule.images
    named = {"train": thinned(run.split.indices("train"))} | {
        s: run.split.indices(s) for s in subsets
    }
    keys = [(index, PLAIN) for indices in named.values() for index in indices]
    found = describe(cfg.features, cfg.model, network, images, keys, device)
    ends = np.cumsum([len(indices) for indices in named.values()])[:-1]
    return dict(zip(named, np.split(found, ends), strict=True))


def _fit_detector(
    run: Run, described: Mapping[str, NDArray[np.float32]], grouped: bool
) -> Subspace | None:
    """Fits the out-of-distribution detector on train and val.

    Raises:
        BcdError: A descriptor is not finite.
    """
    split = run.split
    owners = [split.clusters[i] for i in thinned(split.indices("train"))] if grouped else []
    names = fill_group_names([*owners, *split.clusters_of("val")]) if grouped else None
    own = np.concatenate([described["train"], described["val"]])
    if not np.isfinite(own).all():
        raise BcdError("descriptors of own images are not finite: the weights are unusable")
    return fit_detector(own, run.cfg.decision.ood, names)


def finalize(
    run: Run,
    network: SmearNetwork,
    datamodule: SmearDataModule,
    policy: DecisionPolicy,
    results: dict[str, Result],
    shown: Shown,
    device: torch.device,
) -> Outcome:
    """Adds test images that overlap others, the audit, the effect of corruptions, and examples."""
    cfg, tested = run.cfg, run.split.indices("test")
    found = find_leaks(run.profile, run.split.indices("train"), run.split.indices("val"), tested)
    test = results["test"]
    test.metrics.update(leak_metrics(found, tested, test.predictions, run.catalog))
    checks, sheet = run.audit()
    masked = cfg.data.mask_scale_bar
    corrupted = brief_robustness(
        network, policy, run.catalog, tested, cfg.model, cfg.features, masked, device
    )
    clusters = run.split.clusters
    rows = brief_table([corrupted], run.catalog.benign, dict(enumerate(clusters)))
    explained = Attributions()
    more: list[Section] = []
    if cfg.report == FULL:
        explained = attribute_answers(run, network, datamodule, test, shown, device)
        more = [*explained.sections, *cell_sections(run)]
    examples = example_blocks(run, test, shown, explained.overlays)
    return Outcome(results, policy, checks, sheet, rows, examples, more)


def write_run(
    run: Run,
    outcome: Outcome,
    history: Sequence[Mapping[str, float]],
    step: int,
    loggers: Loggers,
    tested: str,
) -> None:
    """Writes figures and report, and logs the test figures.

    Args:
        run: The run.
        outcome: Its results.
        history: Figures of each epoch.
        step: Number of optimizer steps, at which the test figures are logged.
        loggers: Those of the trainer.
        tested: What the report says about the use of the test set.
    """
    folder = run.folder
    groups = [run.split.groups[i] for i in run.split.indices("test")] if run.split.groups else []
    catalog, full = replace(run.catalog, kept=None), run.cfg.report == FULL
    # In the second process, which has imported matplotlib already.
    drawn = run.begin(partial(write_results, folder, catalog, outcome.results, groups, full))
    curves = run.begin(partial(write_curves, folder, history))
    write_overlaps(folder, run.catalog, run.profile, outcome.sheet)
    drawn()
    curves()
    facts = Facts(
        run.cfg, run.catalog, run.split, outcome.results, outcome.policy, outcome.checks,
        outcome.corruptions, tested, len(history), run.all_warnings(history), outcome.examples,
        outcome.more,
    )  # fmt: skip
    write_report(folder, facts)
    checks = {"verdict": worst(outcome.checks), "checks": [asdict(c) for c in outcome.checks]}
    write_text(folder / "audit.json", json.dumps(checks, indent=1) + "\n")
    log_test(loggers, outcome.results["test"], run.catalog, step, run.cfg.logs_images)
