"""The audit: can the data be trusted. In full as a program, and in short in every training run."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bcd.audit.checks import (
    FAIL,
    Check,
    check_files,
    check_overlaps,
    check_slides,
    check_split,
    worst,
)
from bcd.audit.network import frozen_features
from bcd.audit.pairs import write_overlaps
from bcd.audit.probes import (
    Score,
    Unmeasured,
    learnt_from,
    remembered,
    score,
    without_colour,
)
from bcd.audit.shortcuts import DECOLOURED, NETWORK, check_shortcuts
from bcd.audit.sources import COLOUR, IN_RUNS, MASKED, SOURCES
from bcd.config.programs import AuditConfig
from bcd.config.schema import DataConfig, SplitConfig
from bcd.console import say, track
from bcd.data.catalog import Catalog, load_catalog
from bcd.data.quality.profile import Survey, survey_pictures
from bcd.data.splits.slide_groups import likely_slides
from bcd.data.splits.split import Split, make_split
from bcd.errors import BcdError
from bcd.reporting.audit_page import check_rows, write_audit
from bcd.run_folder import write_config, write_run_info
from bcd.storage import write_text


def audit(cfg: AuditConfig) -> tuple[list[Check], int]:
    """Audits the pictures and the split, and writes `audit.html`, `audit.json`, `pairs.csv`.

    Args:
        cfg: Checked configuration.

    Returns:
        The checks, and the exit status: 1 where `strict` is set and a check failed.

    Raises:
        BcdError: No pictures, or they cannot be split.
    """
    started = time.time()
    run_dir = Path(cfg.run_dir).absolute()
    catalog = load_catalog(cfg.data)
    survey = survey_pictures(catalog)
    split = make_split(catalog, cfg.split, survey)
    slides = likely_slides(catalog, survey, cfg.split.group_size)
    scores, network = _scores(cfg, catalog, survey, split)
    checks = [
        *check_files(catalog),
        *check_overlaps(catalog, survey),
        *check_split(catalog, split, cfg.split, survey, cfg.data),
        check_slides(slides),
        *check_shortcuts(scores, network),
    ]
    write_overlaps(run_dir, catalog, survey, split)
    write_audit(run_dir / "audit.html", catalog, survey, slides, checks, [*scores, *network])
    found = {
        "verdict": worst(checks),
        "pictures": len(catalog.pictures),
        "checks": [asdict(check) for check in checks],
        "network": [asdict(item) for item in network],
    }
    write_text(run_dir / "audit.json", json.dumps(found, indent=1) + "\n")
    split.write(run_dir / "split.csv", catalog)
    write_config(run_dir, cfg)
    write_run_info(run_dir, started, data=catalog.identity())
    for status, name, finding, mend in check_rows(checks):
        say(f"{status}  {name}: {finding}")
        if mend:
            say(f"      mend: {mend}")
    say(f"verdict: {worst(checks)}")
    say(f"audit: {run_dir}  (open audit.html)")
    return checks, int(cfg.strict and worst(checks) == FAIL)


def _scores(
    cfg: AuditConfig, catalog: Catalog, survey: Survey, split: Split
) -> tuple[list[Score | Unmeasured], list[Score]]:
    """Scores of each source beside the network and of the network, on each split."""
    splits = _splits(cfg.split, catalog, survey, split)
    names = [name for name in SOURCES if not (cfg.data.mask_scale_bar and name == MASKED)]
    jobs = [(name, where) for name in names for where in splits]
    scores = []
    for name, where in track(jobs, "Telling the class from colour, corners and files", len(jobs)):
        scores.append(_remembered(name, catalog, survey, splits[where], where))
    if not cfg.network:
        return scores, []
    try:
        features = frozen_features(catalog, cfg.data, cfg.model, cfg.features, cfg.device)
    except BcdError as error:
        say(f"the network's own score is left out: {error}")
        return scores, []
    colours, network = SOURCES[COLOUR](survey.looks, catalog), []
    for where, own in splits.items():
        rest = without_colour(features, colours, learnt_from(own))
        for name, values in ((NETWORK, features), (DECOLOURED, rest)):
            found = score(name, values, catalog, own, where, linear=True)
            if isinstance(found, Score):
                network.append(found)
            else:
                say(f"no score of {name} on the {where} split: {found.reason}")
    return scores, network


def _remembered(
    name: str, catalog: Catalog, survey: Survey, split: Split, where: str
) -> Score | Unmeasured:
    def compute() -> Score | Unmeasured:
        return score(name, SOURCES[name](survey.looks, catalog), catalog, split, where)

    return replace(remembered(catalog, split, name, compute), split=where)


def _splits(cfg: SplitConfig, catalog: Catalog, survey: Survey, own: Split) -> dict[str, Split]:
    """The user's own split first, then a random and a grouped one where it is neither."""
    splits = {cfg.kind: own}
    wanted = {
        "stratified": replace(cfg, kind="stratified"),
        "grouped": replace(cfg, kind="grouped", groups="auto"),
    }
    for name, other in wanted.items():
        if name not in splits:
            try:
                splits[name] = make_split(catalog, other, survey)
            except BcdError as error:
                say(f"no {name} split to compare with: {error}")
    return splits


def audit_run(
    catalog: Catalog, split: Split, survey: Survey, cfg: SplitConfig, data: DataConfig
) -> list[Check]:
    """The short audit of a training run: files, overlaps, leaks, separation, colour and corners."""
    scores = [_remembered(name, catalog, survey, split, cfg.kind) for name in IN_RUNS]
    return [
        *check_files(catalog),
        *check_overlaps(catalog, survey),
        *check_split(catalog, split, cfg, survey, data),
        *check_shortcuts(scores),
    ]


def verdict_line(checks: Sequence[Check]) -> str:
    """The verdict of a run's audit in one line: the worst status and what led to it."""
    verdict = worst(checks)
    reasons = [f"{c.name}: {c.finding}" for c in checks if c.status == verdict != "PASS"]
    return f"audit: {verdict}" + (f" ({'; '.join(reasons)})" if reasons else "")
