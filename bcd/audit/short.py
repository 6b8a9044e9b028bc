"""The short audit that is part of every training run."""

from __future__ import annotations

from collections.abc import Sequence

from bcd.audit.checks import (
    Check,
    check_files,
    check_overlaps,
    check_split,
    worst,
)
from bcd.audit.scores import cached_score
from bcd.audit.shortcuts import check_shortcuts
from bcd.audit.sources import IN_RUNS
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.split import Split


def audit_run(
    catalog: Catalog, split: Split, profile: DataProfile, cfg: SplitConfig, data: DataConfig
) -> list[Check]:
    """The short audit of a training run: files, overlaps, leaks, separation, colour and corners."""
    scores = [cached_score(name, catalog, profile, split, cfg.kind) for name in IN_RUNS]
    return [
        *check_files(catalog),
        *check_overlaps(catalog, profile),
        *check_split(catalog, split, cfg, profile, data),
        *check_shortcuts(scores),
    ]


def verdict_line(checks: Sequence[Check]) -> str:
    """The verdict of a run's audit in one line: the worst status and what led to it."""
    verdict = worst(checks)
    reasons = [f"{c.name}: {c.finding}" for c in checks if c.status == verdict != "PASS"]
    return f"audit: {verdict}" + (f" ({'; '.join(reasons)})" if reasons else "")
