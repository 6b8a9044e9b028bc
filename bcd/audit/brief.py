"""The brief audit that is part of each training run; needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bcd.audit.checks import PASS, Check, check_files, check_overlaps, check_split, worst
from bcd.audit.probes import ProbeScore, SkippedProbe, load_or_compute, score_probe
from bcd.audit.shortcuts import check_shortcuts
from bcd.audit.sources import BRIEF_SOURCES, SOURCES
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.split import Split


def audit_training_run(
    catalog: Catalog, split: Split, profile: DataProfile, cfg: SplitConfig, data: DataConfig
) -> list[Check]:
    """The brief audit of a training run: files, overlaps, leaks, separation, colour shortcuts.

    Args:
        catalog: The images.
        split: Of the images.
        profile: Of the images.
        cfg: The `split` group.
        data: The `data` group.
    """
    scores = [cached_score(name, catalog, profile, split, cfg.kind) for name in BRIEF_SOURCES]
    return [
        *check_files(catalog),
        *check_overlaps(catalog, profile),
        *check_split(catalog, split, cfg, profile, data),
        *check_shortcuts(scores),
    ]


def cached_score(
    name: str, catalog: Catalog, profile: DataProfile, split: Split, where: str
) -> ProbeScore | SkippedProbe:
    """Scores a source on a split; cached for the same images and split."""

    def compute() -> ProbeScore | SkippedProbe:
        return score_probe(name, SOURCES[name](profile.statistics, catalog), catalog, split, where)

    return replace(load_or_compute(catalog, split, name, compute), split=where)


def verdict_line(checks: Sequence[Check]) -> str:
    """The verdict of an audit in one line: the worst status and the findings behind it."""
    verdict = worst(checks)
    reasons = [f"{c.name}: {c.finding}" for c in checks if c.status == verdict != PASS]
    return f"audit: {verdict}" + (f" ({'; '.join(reasons)})" if reasons else "")
