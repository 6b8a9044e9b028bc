"""Evaluates a checkpoint on images of a catalog."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bcd.audit.leaks import find_leaks, leak_metrics
from bcd.config.compose import with_defaults
from bcd.config.programs import EvalConfig
from bcd.config.schema import AugmentConfig, FeaturesConfig, ModelConfig
from bcd.console import say, show_table
from bcd.data.catalog import Catalog, Rejected
from bcd.data.loading import ViewSampler, make_loader
from bcd.data.matching import Match
from bcd.data.quality.profile import profile_images
from bcd.data.splits.split import recorded_indices
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.evaluation.answers import Answers
from bcd.evaluation.collect import choose_device, collect_answers
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.results import Result, evaluate
from bcd.features.cached import Need, cached_source
from bcd.features.describe import describe
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.inference.external import check_external, part_folders, record_external
from bcd.inference.grouping import count_ungrouped, find_groups, ungrouped_note
from bcd.inference.parts import (
    Part,
    check_classes_known,
    check_profiled,
    find_parts,
    warn_of_idle,
    warn_of_relabelled,
    warn_of_trained,
)
from bcd.inference.site import find_match, tell_appearance
from bcd.models.network import SmearNetwork
from bcd.reporting.external import auroc_note, one_site_rows, site_rows
from bcd.reporting.guarantees import guarantee_lines, prior_correction_line, source_of
from bcd.reporting.results import (
    absent_classes_note,
    few_groups_warning,
    metric_rows,
    rejected_line,
    write_metrics,
    write_mistakes,
    write_results,
)
from bcd.run_folder import check_no_run, find_checkpoint, write_config, write_run_info
from bcd.storage import typed_path


def evaluate_images(
    cfg: EvalConfig,
    network: SmearNetwork,
    card: Card,
    catalog: Catalog,
    indices: Sequence[int],
    name: str,
    match: Match | None = None,
) -> Result:
    """Evaluates a network on some images, with cached features where possible.

    Args:
        cfg: Checked configuration.
        network: The network from `load_checkpoint`.
        card: The card from `load_checkpoint`.
        catalog: The images, with the card's classes.
        indices: Indices in the catalog of the images to evaluate.
        name: Name of these images for the progress bar; `train` and `val` get no intervals.
        match: How images of another site are matched; None for not at all.
    """
    answers = answer_images(cfg, network, card, catalog, indices, name, match)
    groups = find_groups(catalog, card, indices)
    policy = DecisionPolicy.from_plain(card.policy)
    chosen_on = name in ("train", "val")
    return evaluate(answers, policy, catalog, indices, groups, intervals=not chosen_on)


def answer_images(
    cfg: EvalConfig,
    network: SmearNetwork,
    card: Card,
    catalog: Catalog,
    indices: Sequence[int],
    name: str,
    match: Match | None = None,
) -> Answers:
    """The outputs of a network for some images; the arguments are `evaluate_images`'."""
    batch = cfg.data.batch_size or int(card.config["data"]["batch_size"])
    device = choose_device(cfg.device)
    model, features = ModelConfig(**card.config["model"]), _features_config(cfg, card)
    cacheable = replace(features, bank=features.bank and card.test_time is None)
    source, needs = _images(catalog, card, match), [Need(indices, (PLAIN,))]
    described = describe(features, model, network, source, [(i, PLAIN) for i in indices], device)
    with cached_source(cacheable, model, network, source, needs, device) as cached:
        loader = make_loader(cached, ViewSampler(indices, 0, 0), batch, cfg.data.num_workers)
        return collect_answers(network, loader, device, described, f"Evaluating {name}")


def _images(catalog: Catalog, card: Card, match: Match | None) -> ImageViews:
    augmenter, mask = Augmenter(with_defaults(AugmentConfig), 0), card.mask_scale_bar
    return ImageViews.of(
        catalog, card.input_size, augmenter, mask, card.view_names, match, card.roi
    )


def _features_config(cfg: EvalConfig, card: Card) -> FeaturesConfig:
    """The run's `features` group with the overrides of this evaluation."""
    asked = {name: value for name, value in vars(cfg.features).items() if value is not None}
    return FeaturesConfig(**{**card.config["features"], **asked})


def evaluate_checkpoint(cfg: EvalConfig) -> dict[str, Result]:
    """Evaluates a checkpoint and writes metrics, predictions and figures.

    Without `data.root` it evaluates the recorded test set of the training run, found by sha256;
    with another root, all images there; with several sites, each of them after the test set.

    Args:
        cfg: Checked configuration.

    Returns:
        The result by the name of the subset or site.

    Raises:
        BcdError: The checkpoint is missing or has no decision policy, there are no images, a class
            name is not known, or answers are not finite.
    """
    started = time.time()
    run_dir = Path(cfg.run_dir).absolute()
    check_no_run(run_dir)
    warn_of_idle(cfg)
    checkpoint = find_checkpoint(cfg.ckpt)
    network, card = load_checkpoint(checkpoint, cfg.uncalibrated)
    parts = find_parts(cfg, card)
    _check(cfg, card, parts)
    match = find_match(cfg.site, card)
    looks = {part.key: tell_appearance(match, card, part) for part in parts}
    results = {part.key: _evaluate_part(cfg, network, card, part, match) for part in parts}
    write_config(run_dir, cfg)
    folders = part_folders(run_dir, parts)
    for part, folder in zip(parts, folders, strict=True):
        groups = [part.catalog.images[i].group for i in part.indices]
        write_results(folder, part.catalog, {part.key: results[part.key]}, groups)
        write_mistakes(folder, part.catalog, results[part.key])
        if cfg.corruptions is not None:
            _measure_robustness(cfg, network, card, part, match, folder)
    if len(parts) > 1:
        write_metrics(run_dir, results)
    if cfg.record:
        record_external(checkpoint, card, parts, results)
    _write_run_info(run_dir, started, checkpoint, parts, looks)
    root = typed_path(cfg.data.root or card.data_root)
    _show(checkpoint, root, card, parts, results)
    say(f"results: {run_dir}")
    return results


def _check(cfg: EvalConfig, card: Card, parts: Sequence[Part]) -> None:
    if cfg.site.profile is not None:
        check_profiled(parts, card)
    if cfg.corruptions is not None:
        check_classes_known(parts, card)
    if cfg.record:
        check_external(parts, card)


def _evaluate_part(
    cfg: EvalConfig, network: SmearNetwork, card: Card, part: Part, match: Match | None
) -> Result:
    catalog, indices = part.catalog, part.indices
    warn_of_trained(part, card)
    warn_of_relabelled(catalog, card)
    result = evaluate_images(cfg, network, card, catalog, indices, part.key, match)
    if part.site:
        result.metrics["n_ungrouped"] = count_ungrouped(catalog, card, indices)
    if part.key == "test":
        trained, chosen = (recorded_indices(catalog, card.split[p]) for p in ("train", "val"))
        found = find_leaks(profile_images(catalog), trained, chosen, indices)
        result.metrics.update(leak_metrics(found, indices, result.predictions, catalog))
    return result


def _write_run_info(
    run_dir: Path,
    started: float,
    checkpoint: Path,
    parts: Sequence[Part],
    looks: Mapping[str, Any],
) -> None:
    data = {part.key: part.catalog.identity() for part in parts}
    write_run_info(
        run_dir,
        started,
        checkpoint=str(checkpoint),
        data=data if len(parts) > 1 else data[parts[0].key],
        rejected=[vars(item) for item in _rejected(parts)],
        appearance=looks,
    )


def _rejected(parts: Sequence[Part]) -> list[Rejected]:
    """Rejected files of all parts; the sites of one CSV share theirs."""
    by_root = {part.catalog.root: part.catalog.rejected for part in parts}
    return [item for rejected in by_root.values() for item in rejected]


def _show(
    checkpoint: Path, root: Path, card: Card, parts: Sequence[Part], results: Mapping[str, Result]
) -> None:
    """Prints the table, and what qualifies its figures; `root` is that of a single part."""
    policy = DecisionPolicy.from_plain(card.policy)
    if len(parts) == 1:
        shown = root if root.is_file() else parts[0].catalog.root
        rows = one_site_rows(results) if parts[0].site else metric_rows(results)
        show_table(f"{checkpoint.name} on {shown}", ["metric", *results], rows)
    else:
        show_table(checkpoint.name, ["metric", *results], site_rows(results))
    for part in parts:
        of_part = f"{part.key}: " if len(parts) > 1 else ""
        metrics = results[part.key].metrics
        notes = (
            absent_classes_note(metrics), auroc_note(metrics), few_groups_warning(metrics),
            ungrouped_note(metrics.get("n_ungrouped", 0), metrics["n"]),
        )  # fmt: skip
        for line in notes:
            if line:
                say(f"warning: {of_part}{line}")
        if line := prior_correction_line(policy, part.catalog.classes, metrics):
            say(f"{of_part}{line}")
    # A recalibrated policy states the site that it applies to.
    sites = [part.site for part in parts if part.site and card.recalibration is None]
    source = source_of(card.recalibration, card.release is not None)
    for line in guarantee_lines(policy, source, sites):
        say(line)
    if rejected := _rejected(parts):
        say(rejected_line(len(rejected)))


def _measure_robustness(
    cfg: EvalConfig,
    network: SmearNetwork,
    card: Card,
    part: Part,
    match: Match | None,
    folder: Path,
) -> None:
    """Evaluates the same images under a suite of corruptions; writes and prints the table."""
    from bcd.evaluation.robustness import evaluate_suite
    from bcd.reporting.robustness import robustness_cells, write_robustness

    rows = evaluate_suite(
        str(cfg.corruptions),
        network,
        DecisionPolicy.from_plain(card.policy),
        _images(part.catalog, card, match),
        part.indices,
        _features_config(cfg, card).engine,
        choose_device(cfg.device),
        part.catalog.benign,
        find_groups(part.catalog, card, part.indices),
    )
    write_robustness(folder, rows)
    show_table(f"corruptions={cfg.corruptions}", *robustness_cells(rows, intervals=False))
