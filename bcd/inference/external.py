"""Records results on other sites in a checkpoint's card and in the report of its run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bcd.console import say, short
from bcd.data.catalog import Catalog
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.results import Result
from bcd.inference.checkpoint import Card, write_external
from bcd.inference.parts import Part, count_trained
from bcd.reporting.external import write_external_section
from bcd.storage import digest

# Metrics that a record keeps, of those that a result has; each with its interval.
_KEPT = (
    "n", "n_malignant", "n_benign", "n_groups", "n_ungrouped", "effective_groups", "malignancy",
    "at_threshold", "unsafe_malignant", "unsafe_benign", "n_unsafe_malignant", "n_unsafe_benign",
    "referred", "referral_reasons", "accuracy", "balanced_accuracy",
)  # fmt: skip


def check_external(parts: Sequence[Part], card: Card) -> None:
    """Checks that there is another site, with images that are new to the model.

    Raises:
        BcdError: There is none, or the model was trained or chosen on some of its images.
    """
    external = [part for part in parts if part.site]
    if not external:
        raise ConfigError(
            "record=true: writes results on other sites: give data.root=<its images>, or sites"
        )
    for part in external:
        if count := count_trained(part.catalog, card, part.indices):
            raise BcdError(
                f"record=true: {count} of {len(part.indices)} images of {part.site} were trained "
                "or chosen on (same sha256), so this is no external test: remove them, or set "
                "record=false"
            )


def record_external(
    checkpoint: Path, card: Card, parts: Sequence[Part], results: Mapping[str, Result]
) -> None:
    """Writes the results on other sites into the card, and into the report of the run.

    A record of the same images replaces the earlier one, so the command can be repeated.
    """
    records = list(card.external)
    for part in parts:
        if not part.site:
            continue
        made = _record(part, results[part.key])
        same = [record["fingerprint"] == made["fingerprint"] for record in records]
        if any(same):
            records[same.index(True)] = made
        else:
            records.append(made)
    write_external(checkpoint, records)
    card.external = records
    in_run = checkpoint.parent.name == "checkpoints"
    files = write_external_section(checkpoint.parent.parent, records) if in_run else []
    say(f"recorded: External testing in {', '.join(short(f) for f in (checkpoint, *files))}")


def _record(part: Part, result: Result) -> dict[str, Any]:
    names = [name for kept in _KEPT for name in (kept, f"{kept}_ci")]
    metrics = {name: result.metrics[name] for name in names if name in result.metrics}
    return site_record(part.site, part.catalog, {"map": part.class_map, "metrics": metrics})


def site_record(site: str, catalog: Catalog, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a site: name, date, images (sha256), and facts.

    Args:
        site: Its name.
        catalog: Its images; the fingerprint does not depend on their names and classes.
        facts: Ready for JSON.
    """
    record = {
        "site": site,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "fingerprint": digest("\n".join(sorted(image.sha256 for image in catalog.images))),
        **facts,
    }
    plain: dict[str, Any] = json.loads(json.dumps(record))  # no numpy, which a card cannot hold
    return plain


def part_folders(run_dir: Path, parts: Sequence[Part]) -> list[Path]:
    """Folder of each part's predictions and figures: the run's own if there is one part."""
    if len(parts) == 1:
        return [run_dir]
    names: list[str] = []
    for part in parts:
        plain = re.sub(r"[^\w.-]+", "_", part.key).strip(".") or "site"
        names.append(plain if plain not in names else f"{plain}_{len(names)}")
    return [run_dir / name for name in names]
