"""The audit: can the data be trusted. In full as a program, and in short in every training run."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
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
from bcd.audit.page import check_rows, write_audit
from bcd.audit.pairs import write_overlaps
from bcd.audit.scores import all_scores
from bcd.audit.shortcuts import check_shortcuts
from bcd.config.programs import AuditConfig
from bcd.console import say
from bcd.data.load import load_catalog
from bcd.data.quality.profile import survey_pictures
from bcd.data.splits.slide_groups import likely_slides
from bcd.data.splits.split import make_split
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
    scores, network = all_scores(cfg, catalog, survey, split)
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
