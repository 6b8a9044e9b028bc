"""Fits temperature and threshold of a checkpoint to a few labelled images of another site."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.programs import EvalConfig, SiteConfig
from bcd.console import say, show_table
from bcd.data.catalog import Catalog, ImageRecord
from bcd.errors import BcdError
from bcd.evaluation.answers import Answers, check_finite
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.recalibration import check_labels, cross_fit, decision_metrics, refit
from bcd.evaluation.thresholds import Scope
from bcd.inference.checkpoint import Card, load_checkpoint, save_content
from bcd.inference.evaluate import answer_images
from bcd.inference.external import site_record
from bcd.inference.grouping import count_ungrouped, find_groups, ungrouped_note
from bcd.inference.parts import count_trained, load_site, warn_of_idle
from bcd.models.checkpoint_content import read_content
from bcd.models.network import SmearNetwork
from bcd.reporting.external import metrics_rows
from bcd.reporting.guarantees import guarantee_lines, source_of
from bcd.run_folder import check_no_run, find_checkpoint, write_config, write_run_info
from bcd.storage import typed_path, write_text

Metrics = dict[str, Any]
RECALIBRATED = "recalibrated.ckpt"


@dataclass(frozen=True)
class Labelled:
    """Labelled images of a site and what the network answers.

    Attributes:
        site: Name of the site.
        catalog: Holds the images.
        answers: Outputs for the images.
        groups: Group of each image; None if none is known and no images overlap.
        ungrouped: Number of images without a group, also of those that overlap.
    """

    site: str
    catalog: Catalog
    answers: Answers
    groups: list[str] | None
    ungrouped: int

    @property
    def malignant(self) -> NDArray[np.bool_]:
        """The truth, (n,)."""
        return np.asarray(self.answers.labels != self.catalog.benign)

    def scope(self) -> Scope:
        """The groups, and what guarantees that are based on them apply to."""
        drawn = "assuming that those labelled were drawn at random"
        if self.groups is None:
            return Scope(None, f"images of {self.site}, {drawn} and are independent")
        if self.ungrouped == len(self.groups):
            independent = "and that images that do not overlap are independent"
            return Scope(self.groups, f"images of {self.site}, {drawn} {independent}", True)
        population = f"an image of a new group of {self.site}, {drawn}"
        if self.ungrouped:
            population += (
                f" and that {self.ungrouped} of {len(self.groups)} images, which have no group, "
                "are independent of all that they do not overlap"
            )
        return Scope(self.groups, f"{population}; each group has the same weight")


def recalibrate_checkpoint(cfg: EvalConfig) -> dict[str, Metrics]:
    """Writes a checkpoint whose temperature and threshold are fitted to labels of a site.

    Metrics before and after are of images that were not used for the fit: of the labelled images
    themselves by cross-fitting over groups, and with `data.root` of all other images there, except
    those that share a group with a labelled one.

    Args:
        cfg: Checked configuration.

    Returns:
        Metrics by `labels, before`, `labels, after`, and the same of `others`.

    Raises:
        BcdError: The labels are too few or all of one kind, the model was trained on some of them,
            or the checkpoint has no threshold or was recalibrated before.
    """
    started = time.time()
    run_dir = Path(cfg.run_dir).absolute()
    check_no_run(run_dir)
    warn_of_idle(cfg)
    checkpoint = find_checkpoint(cfg.ckpt)
    network, card = load_checkpoint(checkpoint)
    policy = DecisionPolicy.from_plain(card.policy)
    _check_card(cfg, card, policy)
    labelled = _labelled(cfg, network, card)
    check_labels(labelled.malignant, labelled.scope(), cfg.min_sensitivity, policy.confidence)
    new, found = _fit(policy, labelled)
    if cfg.data.root is not None:
        found |= _others(cfg, network, card, labelled, {"before": policy, "after": new})
    record = _record(labelled, policy, new, found)
    write_config(run_dir, cfg)
    write_text(run_dir / "metrics.json", json.dumps(found, indent=1) + "\n")
    content = read_content(checkpoint)
    # Results on other sites are those of the previous threshold.
    content["card"] |= {"policy": new.to_plain(), "recalibration": record, "external": []}
    save_content(content, run_dir / RECALIBRATED)
    write_run_info(
        run_dir, started, checkpoint=str(checkpoint), data=labelled.catalog.identity(),
        rejected=[vars(item) for item in labelled.catalog.rejected],
    )  # fmt: skip
    _show(labelled, policy, new, found, record)
    say(f"checkpoint: {run_dir / RECALIBRATED}")
    return found


def _fit(policy: DecisionPolicy, labelled: Labelled) -> tuple[DecisionPolicy, dict[str, Metrics]]:
    """The recalibrated policy, and metrics of the labels before and, cross-fitted, after."""
    local, scope, benign = labelled.answers, labelled.scope(), policy.benign
    assert benign is not None
    decisions = {
        "labels, before": policy.answer(local.logits, local.descriptors, local.disagreement),
        "labels, after": cross_fit(policy, local, benign, scope),
    }
    found = {
        name: decision_metrics(each, labelled.malignant, benign, labelled.groups)
        | {"n_ungrouped": labelled.ungrouped}
        for name, each in decisions.items()
    }
    return refit(policy, local, benign, scope), found


def _check_card(cfg: EvalConfig, card: Card, policy: DecisionPolicy) -> None:
    if card.recalibration is not None:
        raise BcdError(
            f"ckpt={cfg.ckpt}: was recalibrated for {card.recalibration['site']}: give the "
            "checkpoint of the training run"
        )
    if policy.benign is None or policy.malignant_threshold is None:
        raise BcdError(
            f"ckpt={cfg.ckpt}: has no threshold for malignancy to recalibrate, because it was "
            "trained without a benign class (data.benign)"
        )


def _labelled(cfg: EvalConfig, network: SmearNetwork, card: Card) -> Labelled:
    file = typed_path(str(cfg.recalibrate))
    if not file.is_file():
        raise BcdError(f"recalibrate={file}: no such file; give a CSV with the columns path, class")
    given = SiteConfig(str(file), cfg.data.map, cfg.data.group_pattern)
    catalog = load_site(cfg, card, "", given, strict=cfg.data.root is None)
    if len(sites := [*catalog.by_site()]) > 1:
        raise BcdError(
            f"recalibrate={file}: has images of {', '.join(sites)}; a checkpoint is recalibrated "
            "for one site"
        )
    check_consistent(str(file), catalog)
    everything = list(range(len(catalog.images)))
    if count := count_trained(catalog, card, everything):
        raise BcdError(
            f"recalibrate={file}: {count} of {len(everything)} images were trained or chosen on "
            "(same sha256), so they say nothing about new ones"
        )
    answers = answer_images(cfg, network, card, catalog, everything, "labels")
    check_finite(answers, [image.path for image in catalog.images])
    groups = fill_group_names(find_groups(catalog, card, everything))
    root = typed_path(cfg.data.root) if cfg.data.root is not None else file
    name = sites[0] or (root.resolve().name if root.is_dir() else root.stem)
    ungrouped = count_ungrouped(catalog, card, everything)
    return Labelled(name, catalog, answers, groups, ungrouped)


def check_consistent(file: str, catalog: Catalog) -> None:
    """Checks that copies of an image have the same class.

    Raises:
        BcdError: Two have different ones.
    """
    first: dict[str, ImageRecord] = {}
    for image in catalog.images:
        same = first.setdefault(image.sha256, image)
        if same.label != image.label:
            labels = " and ".join(catalog.classes[one.label] for one in (same, image))
            raise BcdError(
                f"recalibrate={file}: {same.path} and {image.path} are the same image (sha256), "
                f"labelled {labels}: correct or remove one"
            )


def _others(
    cfg: EvalConfig,
    network: SmearNetwork,
    card: Card,
    labelled: Labelled,
    policies: dict[str, DecisionPolicy],
) -> dict[str, Metrics]:
    """Metrics of the site's images whose groups hold no labelled image, with each policy."""
    site = SiteConfig(str(cfg.data.root), cfg.data.map, cfg.data.group_pattern)
    catalog = load_site(cfg, card, "", site)
    by_site = catalog.by_site()
    if len(by_site) > 1:
        if labelled.site not in by_site:
            raise BcdError(f"data.root={site.root}: has several sites, but none {labelled.site}")
        catalog = by_site[labelled.site]
    used = {image.sha256 for image in labelled.catalog.images}
    everything = list(range(len(catalog.images)))
    names = find_groups(catalog, card, everything)
    images = list(zip(catalog.images, names, strict=True))
    taken = {name for image, name in images if image.sha256 in used and name}
    left = [
        i
        for i, (image, name) in enumerate(images)
        if image.sha256 not in used and name not in taken
    ]
    if not left:
        say("warning: every image of data.root is labelled, or shares a group with a labelled one")
        return {}
    answers = answer_images(cfg, network, card, catalog, left, "others")
    check_finite(answers, [catalog.images[i].path for i in left])
    groups = fill_group_names([names[i] for i in left])
    assert catalog.benign is not None
    truth = np.asarray(answers.labels != catalog.benign)
    decided = {
        when: policy.answer(answers.logits, answers.descriptors, answers.disagreement)
        for when, policy in policies.items()
    }
    more = {"n_ungrouped": count_ungrouped(catalog, card, left)}
    return {
        f"others, {when}": decision_metrics(each, truth, catalog.benign, groups) | more
        for when, each in decided.items()
    }


def _record(
    labelled: Labelled, policy: DecisionPolicy, new: DecisionPolicy, found: dict[str, Metrics]
) -> dict[str, Any]:
    """What the card says of the recalibration."""
    facts: dict[str, Any] = {
        "n": len(labelled.malignant),
        "n_malignant": int(labelled.malignant.sum()),
        "n_groups": None if labelled.groups is None else len(set(labelled.groups)),
        "n_ungrouped": labelled.ungrouped,
        "images": [image.sha256 for image in labelled.catalog.images],
        "temperature": [policy.temperature, new.temperature],
        "malignant_threshold": [policy.malignant_threshold, new.malignant_threshold],
        "metrics": found,
    }
    return site_record(labelled.site, labelled.catalog, facts)


def _show(
    labelled: Labelled,
    policy: DecisionPolicy,
    new: DecisionPolicy,
    found: dict[str, Metrics],
    record: dict[str, Any],
) -> None:
    """Prints metrics before and after, what was fitted, and what it guarantees."""
    show_table(labelled.site, ["metric", *found], metrics_rows(list(found.values())))
    n, malignant, groups = record["n"], record["n_malignant"], record["n_groups"]
    over = "images" if groups is None else f"{groups} groups"
    if new.by_overlaps:
        over = f"{groups} images, those that overlap counted once"
    say(
        f"recalibrated: temperature {policy.temperature:.3f} -> {new.temperature:.3f}, threshold "
        f"{policy.malignant_threshold:.4g} -> {new.malignant_threshold:.4g}, with {n} labels "
        f"({malignant} malignant, {n - malignant} benign); after: each label answered without its "
        f"fold, cross-fitted over {over}"
    )
    if note := ungrouped_note(labelled.ungrouped, n):
        say(f"warning: {note}")
    for line in guarantee_lines(new, source_of(record)):
        say(line)
