"""The full audit, as a command."""

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
from bcd.audit.embedding import map_section
from bcd.audit.labels import LABEL_ISSUES, check_labels, labels_section, write_label_issues
from bcd.audit.page import check_rows, write_audit
from bcd.audit.pairs import overlap_sheet, write_overlaps
from bcd.audit.probe_scores import all_scores, network_features
from bcd.audit.sheets import sheets_section, size_section
from bcd.audit.shortcuts import check_shortcuts
from bcd.config.programs import AuditConfig
from bcd.console import say
from bcd.data.input_views import sides_of
from bcd.data.load import load_catalog
from bcd.data.quality.profile import profile_images
from bcd.data.splits.slide_groups import likely_slides
from bcd.data.splits.split import make_split
from bcd.run_folder import write_config, write_run_info
from bcd.storage import write_text


def audit(cfg: AuditConfig) -> tuple[list[Check], int]:
    """Audits the images and the split, and writes the audit's folder.

    It has `audit.html`, `audit.json`, `pairs.csv` and `split.csv` and, if the network's features
    are available, `label_issues.csv`.

    Args:
        cfg: Checked configuration.

    Returns:
        The checks, and the exit status: 1 if `strict` is set and a check failed.

    Raises:
        BcdError: There are no images, or they cannot be split.
    """
    started = time.time()
    run_dir = Path(cfg.run_dir).absolute()
    catalog = load_catalog(cfg.data, keep=sides_of(cfg.model.input_views()))
    profile = profile_images(catalog)
    split = make_split(catalog, cfg.split, profile)
    slides = likely_slides(catalog, profile, cfg.split.group_size)
    features, reason = network_features(cfg, catalog)
    scores, network = all_scores(cfg, catalog, profile, split, features)
    checks = [
        *check_files(catalog),
        *check_overlaps(catalog, profile),
        *check_split(catalog, split, cfg.split, profile, cfg.data),
        check_slides(slides),
        *check_shortcuts(scores, network),
    ]
    sheet = overlap_sheet(catalog, profile, split)
    write_overlaps(run_dir, catalog, profile, sheet)
    labels = None if features is None else check_labels(catalog, profile, features)
    if labels is not None:
        write_label_issues(run_dir / LABEL_ISSUES, catalog, labels)
    sections = [
        sheets_section(catalog, slides),
        size_section(run_dir, catalog, profile),
        map_section(run_dir, catalog, slides, features, labels, reason),
        labels_section(catalog, labels, reason),
    ]
    write_audit(
        run_dir / "audit.html", catalog, profile, slides, checks, [*scores, *network], sections
    )
    found = {
        "verdict": worst(checks),
        "images": len(catalog.images),
        "checks": [asdict(check) for check in checks],
        "network": [asdict(item) for item in network],
        "labels_to_check": None if labels is None else len(labels.issues),
    }
    write_text(run_dir / "audit.json", json.dumps(found, indent=1) + "\n")
    split.write(run_dir / "split.csv", catalog)
    write_config(run_dir, cfg)
    write_run_info(run_dir, started, data=catalog.identity())
    for status, name, finding, fix in check_rows(checks):
        say(f"{status}  {name}: {finding}")
        if fix:
            say(f"      fix: {fix}")
    if labels is not None and labels.issues:
        say(f"labels to check: {len(labels.issues)}, listed in {LABEL_ISSUES}")
    say(f"verdict: {worst(checks)}")
    say(f"audit: {run_dir}  (open audit.html)")
    return checks, int(cfg.strict and worst(checks) == FAIL)
