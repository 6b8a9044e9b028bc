"""`audit.html`: the page of an audit, with images of what it found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bcd.audit.checks import Check, worst
from bcd.audit.pairs import PAIRS_FIGURE
from bcd.audit.probes import ProbeScore, SkippedProbe
from bcd.data.catalog import Catalog
from bcd.data.quality.profile import DataProfile
from bcd.data.reading import read_image
from bcd.data.splits.slide_groups import Slides
from bcd.reporting.html import embed_png, heading, note, table, thumbnail, write_page

_CLUSTERS, _MEMBERS = 200, 6  # most shown
_GROUPS, _PER_GROUP = 40, 5


def write_audit(
    file: Path,
    catalog: Catalog,
    profile: DataProfile,
    slides: Slides,
    checks: Sequence[Check],
    scores: Sequence[ProbeScore | SkippedProbe],
) -> None:
    """Writes the page."""
    conflicts = [
        o for o in profile.overlaps if _label(catalog, o.first) != _label(catalog, o.second)
    ]
    sheet = file.parent / "figures" / f"{PAIRS_FIGURE}.png"
    parts = [
        note(f"{catalog.root}: {len(catalog.images)} images. Verdict: {worst(checks)}."),
        table(["status", "check", "finding", "fix"], check_rows(checks), numeric=False),
        heading("What predicts the class"),
        table(["source", "split", "balanced accuracy", "accuracy", "n"], _score_rows(scores)),
        heading("Image statistics by class"),
        table(["class", "images", *_STATISTICS], _statistics_rows(catalog, profile)),
        heading("Label conflicts"),
        *(_pair(catalog, o.first, o.second) for o in conflicts[:_CLUSTERS]),
        *([] if conflicts else [note("None.")]),
        heading("Overlapping pairs across train, val and test"),
        embed_png(sheet, "overlapping pairs of test and train or val")
        if sheet.is_file()
        else note("None."),
        heading("Images of the same field"),
        note("All pairs are in pairs.csv."),
        *_clusters(catalog, profile),
        heading("Estimated slide groups"),
        *_slides(catalog, slides),
    ]
    write_page(file, "Audit", parts)


def check_rows(checks: Sequence[Check]) -> list[list[str]]:
    """Rows of a table: status, name, finding and fix."""
    return [[check.status, check.name, check.finding, check.fix] for check in checks]


def _label(catalog: Catalog, index: int) -> str:
    return catalog.classes[catalog.images[index].label]


def _score_rows(scores: Sequence[ProbeScore | SkippedProbe]) -> list[list[str]]:
    rows = []
    for s in scores:
        cells = ["not measured", "", ""]
        if isinstance(s, ProbeScore):
            cells = [f"{s.balanced_accuracy:.3f}", f"{s.accuracy:.3f}", str(s.n)]
        rows.append([s.source, s.split, *cells])
    return rows


_STATISTICS = (
    "width",
    "height",
    "kB",
    "brightness",
    "sharpness",
    "background red",
    "green",
    "blue",
)


def _statistics_rows(catalog: Catalog, profile: DataProfile) -> list[list[str]]:
    """Means and standard deviations of each class."""
    statistics = profile.statistics
    sizes = np.asarray([(p.width, p.height) for p in catalog.images], np.float64)
    columns = [
        *sizes.T,
        statistics.encoding[:, 0] / 1000,
        statistics.brightness,
        statistics.sharpness,
    ]
    columns += [*statistics.background.T]
    labels = np.asarray(catalog.labels)
    rows = []
    for k, name in enumerate(catalog.classes):
        own = [column[labels == k] for column in columns]
        cells = [f"{np.mean(values):.1f} \u00b1 {np.std(values):.1f}" for values in own]
        rows.append([name, str(int((labels == k).sum())), *cells])
    return rows


def _shown(catalog: Catalog, index: int) -> str:
    path = catalog.images[index].path
    return thumbnail(read_image(catalog.root / path), path)


def _pair(catalog: Catalog, first: int, second: int) -> str:
    return f"<div class=cluster>{_shown(catalog, first)}{_shown(catalog, second)}</div>"


def _clusters(catalog: Catalog, profile: DataProfile) -> Iterator[str]:
    sets = sorted((own for own in profile.sets() if len(own) > 1), key=lambda own: -len(own))
    if not sets:
        yield note("None.")
    for own in sets[:_CLUSTERS]:
        images = "".join(_shown(catalog, i) for i in own[:_MEMBERS])
        yield f"<div class=cluster>{images}</div>"
    if len(sets) > _CLUSTERS:
        yield note(f"{len(sets) - _CLUSTERS} more clusters are in pairs.csv.")


def _slides(catalog: Catalog, slides: Slides) -> Iterator[str]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(slides.groups):
        members[group].append(index)
    largest = sorted(members, key=lambda group: (-len(members[group]), group))[:_GROUPS]
    for group in sorted(largest):
        own = members[group]
        few = [own[i] for i in np.linspace(0, len(own) - 1, min(_PER_GROUP, len(own))).astype(int)]
        images = "".join(_shown(catalog, i) for i in few)
        yield f"<div class=cluster>{note(f'{group}: {len(own)} images')}{images}</div>"
    if len(members) > _GROUPS:
        yield note(f"{len(members) - _GROUPS} smaller groups are not shown.")
