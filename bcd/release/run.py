"""Makes a release: trains the folds, judges their answers, and writes one checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bcd.audit.brief import audit_training_run
from bcd.audit.checks import Check, worst
from bcd.config.input_views import PLAIN_VIEW
from bcd.config.release import ReleaseConfig
from bcd.console import say
from bcd.data.load import load_catalog
from bcd.data.quality.appearance import kept_sides
from bcd.data.quality.profile import profile_images
from bcd.data.splits.files import file_names
from bcd.data.splits.split import make_split
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.collect import choose_device
from bcd.evaluation.out_of_fold import fit_release
from bcd.evaluation.results import evaluate
from bcd.evaluation.thresholds import INDEPENDENT_IMAGES, Scope, of_random_split
from bcd.features.int8 import INT8
from bcd.inference.checkpoint import save_content
from bcd.models.network import SmearNetwork
from bcd.release.answers import (
    Images,
    check_unchanged,
    collect_members,
    corrupted_rows,
    find_folds,
)
from bcd.release.checkpoint import assemble_network, release_content
from bcd.release.curve import measure_curve
from bcd.release.facts import ReleaseFacts, fold_rows
from bcd.release.gate import FOLDS_TABLE, check_old, compare_releases
from bcd.release.members import (
    CURVE_SHARES,
    Member,
    find_trial,
    key_of,
    load_members,
    member_config,
    member_words,
    read_release,
    refuse_limits,
    train_fold,
)
from bcd.release.report import write_release_report
from bcd.release.summary import print_release
from bcd.release.views import try_views
from bcd.release.whole import train_whole
from bcd.reporting.results import write_mistakes, write_results
from bcd.run_folder import write_config, write_run_info
from bcd.storage import write_csv, write_text

OUT_OF_FOLD = "out_of_fold"
GROUPED = "an image of a new group (slide, patient or block); each group has the same weight"
ADJACENT = (
    "an image of a group like these, assuming that these groups, which are adjacent in file order, "
    "were drawn at random; each group has the same weight"
)


def release(cfg: DictConfig) -> int:
    """Trains all folds in this process, then assembles the release.

    Args:
        cfg: As composed by Hydra with `experiment=release`.

    Returns:
        The exit status.

    Raises:
        BcdError: A fold failed, or the configuration is wrong.
    """
    given = list(HydraConfig.get().overrides.task)
    if any(key_of(word) == "split.fold" for word in given):
        raise ConfigError("split.fold: a release trains every fold; leave it out")
    settings, words = _prepare(cfg, given)
    folder = Path(cfg.run_dir).absolute()
    say(f"release: {folder}  (to continue: the same command with hydra.run.dir={folder})")
    try:
        for fold in range(settings.folds):
            _train(settings, words, folder, fold)
            find_trial(folder, words, fold)  # a failed fold ends the release
        return assemble(settings, words, folder)
    except KeyboardInterrupt as error:
        raise BcdError(
            f"interrupted: continue with the same command and hydra.run.dir={folder}", 130
        ) from error


def train_job(cfg: DictConfig, folder: Path) -> float:
    """Trains the fold of one job of a multirun.

    Args:
        cfg: As composed by Hydra with `experiment=release`, with `split.fold`.
        folder: Of the release.

    Returns:
        0; Hydra's sweeper ignores it.
    """
    settings, words = _prepare(cfg, HydraConfig.get().overrides.task)
    _train(settings, words, folder, cfg.split.fold)
    return 0.0


def assemble_jobs(cfg: DictConfig, folder: Path) -> int:
    """Assembles the release whose folds a multirun has trained; returns the exit status.

    Args:
        cfg: Of the multirun, with its `hydra` node.
        folder: Of the release.
    """
    settings, words = _prepare(cfg, cfg.hydra.overrides.task)
    return assemble(settings, words, folder)


def _prepare(cfg: DictConfig, given: Sequence[str]) -> tuple[ReleaseConfig, list[str]]:
    """The settings of the release, and the overrides that its members are trained with.

    Args:
        cfg: As composed by Hydra.
        given: The overrides of the command line.
    """
    refuse_limits(given)
    settings = read_release(cfg)
    if settings.old is not None:
        check_old(settings.old)
    first = member_config(member_words(given, settings, None), 0, Path("release"))
    if first.features.engine == INT8:
        raise ConfigError("features.engine=int8: a release is trained on exact features")
    if settings.tta is not None and first.model.views != [PLAIN_VIEW]:
        raise ConfigError(f"tta={settings.tta}: needs model.views=[{PLAIN_VIEW}]")
    return settings, member_words(given, settings, first)


def _train(settings: ReleaseConfig, words: Sequence[str], folder: Path, fold: int) -> None:
    for share in (*CURVE_SHARES, 1.0) if settings.curve else (1.0,):
        train_fold(folder, words, fold, share)


def assemble(settings: ReleaseConfig, words: Sequence[str], folder: Path) -> int:
    """Judges the members on the images they have not seen, and writes the release.

    Returns:
        The exit status: 1 if the release is worse than an earlier one, in `from`.

    Raises:
        BcdError: A fold is missing, or images have changed.
    """
    started = time.time()
    members = load_members(folder, words, settings.folds)
    images, checks = _load_images(words, folder, members)
    network = assemble_network(members)
    answers, gain = collect_members(images, network, settings.members is None), None
    if settings.tta is not None:
        answers, gain = try_views(images, network, answers, settings.tta)
    scope = _scope(images)
    policy, crossed = fit_release(
        images.cfg.decision, settings.refer, answers, images.catalog.benign, scope
    )
    result = evaluate(
        answers.cross_fitted(crossed), crossed, images.catalog, images.indices, images.clusters
    )
    say("evaluating under corruption")
    facts = ReleaseFacts(
        settings=settings,
        images=images,
        members=members,
        whole=train_whole(images, members, words, folder) if settings.members == 1 else None,
        result=result,
        policy=policy,
        temperature=policy.temperature,
        checks=checks,
        corruptions=corrupted_rows(images, members, crossed.parts),
        gain=gain,
        curve=measure_curve(images, folder, words, answers, scope, settings.refer)
        if settings.curve
        else None,
        gate=None if settings.old is None else compare_releases(settings.old, images, result),
    )
    return _write(folder, facts, network, started)


def _load_images(
    words: Sequence[str], folder: Path, members: Sequence[Member]
) -> tuple[Images, list[Check]]:
    """All images with their folds, and the audit of the first fold's split."""
    cfg = member_config(words, 0, folder)
    catalog = load_catalog(cfg.data, keep=kept_sides(cfg.model.input_views()))
    profile = profile_images(catalog)
    splits = [make_split(catalog, replace(cfg.split, fold=m.fold), profile) for m in members]
    for member, own in zip(members, splits, strict=True):
        check_unchanged(member, catalog, own)
    indices, folds, validated = find_folds(catalog, members)
    split = splits[0]
    clusters = [split.clusters[i] if split.clusters else "" for i in indices]
    device = choose_device("cpu" if cfg.trainer.get("accelerator") == "cpu" else "auto")
    checks = audit_training_run(catalog, split, profile, cfg.split, cfg.data)
    groups = [split.groups[i] if split.groups else "" for i in indices]
    images = Images(cfg, catalog, indices, folds, clusters, groups, validated, device)
    return images, checks


def _scope(images: Images) -> Scope:
    """Groups that count as one image each, and what guarantees apply to."""
    if images.cfg.split.kind == "kfold":
        files = file_names([images.catalog.images[i] for i in images.indices])
        return of_random_split(files, "these images come from")
    groups = fill_group_names(images.clusters)
    if groups is None:
        return INDEPENDENT_IMAGES
    return Scope(groups, ADJACENT if images.cfg.split.kind == "blocked" else GROUPED)


def _write(folder: Path, facts: ReleaseFacts, network: SmearNetwork, started: float) -> int:
    """Writes checkpoint, metrics, tables and reports; returns the exit status."""
    images, policy, whole = facts.images, facts.policy, facts.whole
    shipped, count, first = network, len(facts.members), facts.members[0]
    if whole is None:
        head: Any = network.head
        head.temperature.fill_(policy.temperature)
        policy = replace(policy, temperature=1.0)  # the members are calibrated before the average
    else:
        shipped, count, first = whole.network, 1, replace(whole, card=first.card)
        shipped.test_time = network.test_time
        policy = replace(policy, disagreement_limit=np.inf)
    facts = replace(facts, policy=policy)
    record = json.loads(json.dumps(facts.record()))
    content = release_content(images, first, shipped, count, policy, record, str(folder))
    write_config(folder, {**asdict(images.cfg), "release": asdict(facts.settings)})
    write_results(folder, images.catalog, {OUT_OF_FOLD: facts.result}, images.groups)
    write_mistakes(folder, images.catalog, facts.result)
    more = {"folds": fold_rows(facts), "corruptions": facts.corruptions, **_extra(record)}
    write_text(
        folder / "metrics.json",
        json.dumps({OUT_OF_FOLD: facts.metrics, **more}, indent=1) + "\n",
    )
    _write_folds(folder, images)
    verdict = {"verdict": worst(facts.checks), "checks": [asdict(c) for c in facts.checks]}
    write_text(folder / "audit.json", json.dumps(verdict, indent=1) + "\n")
    write_release_report(folder, facts)
    write_run_info(folder, started, data={**images.catalog.identity(), **images.catalog.counts()})
    save_content(content, folder / "checkpoints" / "best.ckpt")  # last: a release is complete
    print_release(folder, facts)
    return 0 if facts.gate is None or facts.gate.passed else 1


def _extra(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("test_time", "curve", "gate") if record[name]}


def _write_folds(folder: Path, images: Images) -> None:
    rows = []
    for place, index in enumerate(images.indices):
        image = images.catalog.images[index]
        label = images.catalog.classes[image.label]
        group, cluster = images.groups[place], images.clusters[place]
        rows.append((image.path, label, group, cluster, image.sha256, images.folds[place]))
    header = ("path", "class", "group", "cluster", "sha256", "fold")
    write_csv(folder / FOLDS_TABLE, header, rows)
