"""Evaluates a checkpoint on images of a catalog."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bcd.audit.leaks import find_leaks, leak_metrics
from bcd.config.compose import with_defaults
from bcd.config.programs import EvalConfig
from bcd.config.schema import AugmentConfig, DataConfig, FeaturesConfig, ModelConfig
from bcd.console import say, show_table
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.loading import ViewSampler, make_loader
from bcd.data.matching import Match
from bcd.data.quality.profile import profile_images
from bcd.data.splits.grouping import hang_together
from bcd.data.splits.split import name_clusters, recorded_indices
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.errors import BcdError
from bcd.evaluation.collect import choose_device, collect_answers
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.results import Result, evaluate
from bcd.features.cached import Need, cached_source
from bcd.features.describe import describe
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.inference.site import find_match, measure_and_tell
from bcd.models.network import SmearNetwork
from bcd.reporting.guarantees import guarantee_lines, prior_correction_line
from bcd.reporting.results import (
    absent_classes_note,
    few_groups_warning,
    metric_rows,
    write_results,
)
from bcd.run_folder import find_checkpoint, write_config, write_run_info
from bcd.storage import typed_path


def evaluate_images(
    cfg: EvalConfig,
    network: SmearNetwork,
    card: Card,
    catalog: Catalog,
    indices: Sequence[int],
    name: str,
) -> Result:
    """Evaluates a network on some images, with cached features where possible.

    Args:
        cfg: Checked configuration.
        network: The network from `load_checkpoint`.
        card: The card from `load_checkpoint`.
        catalog: The images, with the card's classes.
        indices: Indices in the catalog of the images to evaluate.
        name: Name of these images for the progress bar; `train` and `val` get no intervals.
    """
    batch = cfg.data.batch_size or int(card.config["data"]["batch_size"])
    source = _images(catalog, card, find_match(cfg.site, card))
    device = choose_device(cfg.device)
    model, features = ModelConfig(**card.config["model"]), _features_config(cfg, card)
    described = describe(features, model, network, source, [(i, PLAIN) for i in indices], device)
    with cached_source(
        features, model, network, source, [Need(indices, (PLAIN,))], device
    ) as cached:
        loader = make_loader(cached, ViewSampler(indices, 0, 0), batch, cfg.data.num_workers)
        answers = collect_answers(network, loader, device, described, f"Evaluating {name}")
    groups = _groups(catalog, card, indices)
    policy = DecisionPolicy.from_plain(card.policy)
    chosen_on = name in ("train", "val")
    return evaluate(answers, policy, catalog, indices, groups, intervals=not chosen_on)


def _groups(catalog: Catalog, card: Card, indices: Sequence[int]) -> list[str]:
    """Group of each image, as recorded by the run.

    Other images have the catalog's group, joined where images of this catalog overlap.
    """
    names = [card.groups.get(image.sha256, image.group) for image in catalog.images]
    recorded = card.sha256s()
    if any(catalog.images[i].sha256 not in recorded for i in indices):
        together, _ = hang_together(names, catalog.labels, profile_images(catalog))
        names = list(name_clusters(together, catalog, names))
    return [names[i] for i in indices]


def _images(catalog: Catalog, card: Card, match: Match | None) -> ImageViews:
    augmenter, mask = Augmenter(with_defaults(AugmentConfig), 0), card.mask_scale_bar
    return ImageViews.of(catalog, card.input_size, augmenter, mask, card.view_names, match)


def _is_own(cfg: EvalConfig, card: Card) -> bool:
    """Whether `data.root` is that of the training run."""
    root = cfg.data.root
    return root is None or typed_path(root).resolve() == Path(card.data_root).resolve()


def data_config(cfg: EvalConfig, card: Card) -> DataConfig:
    """The run's `data` group with the overrides of this evaluation.

    Raises:
        BcdError: The images are not there.
    """
    recorded = dict(card.config["data"])
    recorded["generate"] = None  # the run generated the images
    own = _is_own(cfg, card)
    root = typed_path(card.data_root if own or cfg.data.root is None else cfg.data.root)
    if not root.exists():
        if not own:
            raise BcdError(f"there are no images at {root}: give data.root=<where they are>")
        raise BcdError(
            f"the run's images are not at {root}: give data.root=<where they are> and "
            f"subset={cfg.subset or 'test'}"
        )
    recorded["root"] = str(root)
    recorded["drop_duplicates"] = (
        recorded["drop_duplicates"] and own
    )  # elsewhere all images are evaluated
    if cfg.data.variant is not None:
        if own and cfg.data.variant != recorded["variant"]:
            say(f"warning: trained on {recorded['variant']} images, now {cfg.data.variant}")
        recorded["variant"] = cfg.data.variant
    return DataConfig(**recorded)


def _features_config(cfg: EvalConfig, card: Card) -> FeaturesConfig:
    """The run's `features` group with the overrides of this evaluation."""
    asked = {name: value for name, value in vars(cfg.features).items() if value is not None}
    return FeaturesConfig(**{**card.config["features"], **asked})


def warn_of_relabelled(catalog: Catalog, card: Card) -> None:
    """Warns where all images of the run are there, but some have another class."""
    recorded = [image for part in card.split.values() for image in part]
    found = recorded_indices(catalog, recorded)
    if len(found) == len(recorded) and catalog.fingerprint(found) != card.fingerprint:
        say(
            f"warning: images in {catalog.root} have other classes than in the run; the figures "
            "use the present ones"
        )


def count_trained(catalog: Catalog, card: Card, indices: Sequence[int]) -> int:
    """Counts the images that a model or its first weights were trained or chosen on, by sha256."""
    seen = card.sha256s("train", "val") | set(card.pretrained_on)
    return sum(catalog.images[i].sha256 in seen for i in indices)


def evaluate_checkpoint(cfg: EvalConfig) -> dict[str, Result]:
    """Evaluates a checkpoint and writes metrics, predictions and figures.

    Without `data.root` it evaluates the recorded test set of the training run, found by sha256;
    with another root, all images there.

    Args:
        cfg: Checked configuration.

    Returns:
        The result by the name of the subset.

    Raises:
        BcdError: The checkpoint is missing or has no decision policy, there are no images, or
            answers are not finite.
    """
    started = time.time()
    checkpoint = find_checkpoint(cfg.ckpt)
    network, card = load_checkpoint(checkpoint, cfg.uncalibrated)
    match = find_match(cfg.site, card)
    catalog = load_catalog(data_config(cfg, card), card.classes, card.sides)
    subset = cfg.subset or ("test" if _is_own(cfg, card) else "all")
    indices = _choose(catalog, card, subset)
    _warn_of_trained(catalog, card, indices, subset)
    warn_of_relabelled(catalog, card)
    site = measure_and_tell(card, catalog, indices, match)
    result = evaluate_images(cfg, network, card, catalog, indices, subset)
    if subset == "test":
        trained, chosen = (recorded_indices(catalog, card.split[p]) for p in ("train", "val"))
        found = find_leaks(profile_images(catalog), trained, chosen, indices)
        result.metrics.update(leak_metrics(found, indices, result.predictions, catalog))
    results = {subset: result}
    run_dir = Path(cfg.run_dir).absolute()
    write_config(run_dir, cfg)
    write_results(run_dir, catalog, results)
    if cfg.corruptions is not None:
        _measure_robustness(cfg, network, card, catalog, indices, run_dir)
    write_run_info(
        run_dir,
        started,
        checkpoint=str(checkpoint),
        data=catalog.identity(),
        rejected=[vars(item) for item in catalog.rejected],
        site=site,
    )
    show_table(f"{checkpoint.name} on {catalog.root}", ["metric", *results], metric_rows(results))
    if line := absent_classes_note(result.metrics):
        say(f"warning: {line}")
    if line := few_groups_warning(result.metrics):
        say(f"warning: {line}")
    policy = DecisionPolicy.from_plain(card.policy)
    for line in guarantee_lines(policy):
        say(line)
    if line := prior_correction_line(policy, catalog.classes, result.metrics):
        say(line)
    if catalog.rejected:
        say(f"rejected: {len(catalog.rejected)} files, listed in run.json")
    say(f"results: {run_dir}")
    return results


def _measure_robustness(
    cfg: EvalConfig,
    network: SmearNetwork,
    card: Card,
    catalog: Catalog,
    indices: Sequence[int],
    run_dir: Path,
) -> None:
    """Evaluates the same images under a suite of corruptions; writes and prints the table."""
    from bcd.evaluation.robustness import evaluate_suite
    from bcd.reporting.robustness import robustness_cells, write_robustness

    rows = evaluate_suite(
        str(cfg.corruptions),
        network,
        DecisionPolicy.from_plain(card.policy),
        _images(catalog, card, find_match(cfg.site, card)),
        indices,
        _features_config(cfg, card).engine,
        choose_device(cfg.device),
        catalog.benign,
        _groups(catalog, card, indices),
    )
    write_robustness(run_dir, rows)
    show_table(f"corruptions={cfg.corruptions}", *robustness_cells(rows, intervals=False))


def _choose(catalog: Catalog, card: Card, subset: str) -> list[int]:
    if subset == "all":
        return list(range(len(catalog.images)))
    indices = recorded_indices(catalog, card.split[subset])
    missing = len(card.split[subset]) - len(indices)
    if not indices:
        raise BcdError(
            f"none of the run's {subset} images is in {catalog.root}: set subset=all to evaluate "
            "all images there"
        )
    if missing:
        say(f"warning: {missing} of the run's {subset} images are not in {catalog.root}")
    return indices


def _warn_of_trained(catalog: Catalog, card: Card, indices: Sequence[int], subset: str) -> None:
    count = count_trained(catalog, card, indices)
    if count and subset in ("test", "all"):
        say(
            f"warning: {count} of {len(indices)} images were trained or chosen on (same sha256): "
            "the figures are too optimistic"
        )
