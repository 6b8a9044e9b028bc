"""`audit.html`: the page of an audit, with images of what it found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

import bcd
from bcd.audit.checks import FAIL, PASS, WARN, Check, worst
from bcd.audit.labels import LABEL_ISSUES
from bcd.audit.pairs import PAIRS_FIGURE
from bcd.audit.probes import ProbeScore, SkippedProbe
from bcd.data.catalog import Catalog
from bcd.data.quality.profile import DataProfile
from bcd.data.reading import read_image
from bcd.data.splits.slide_groups import Slides
from bcd.reporting.document import Block, Figure, Section, Table, write_html
from bcd.reporting.gallery import Card, Gallery, Picture
from bcd.reporting.html import Link
from bcd.reporting.overview import Overview, today
from bcd.storage import written_path

_CLUSTERS, _MEMBERS = 200, 6  # most shown
_GROUPS, _PER_GROUP = 40, 5
_SIDE = 128  # pixels of an image in a card


def write_audit(
    file: Path,
    catalog: Catalog,
    profile: DataProfile,
    slides: Slides,
    checks: Sequence[Check],
    scores: Sequence[ProbeScore | SkippedProbe],
    images: Sequence[Section],
) -> None:
    """Writes the page; the sections `images` show the images and come before their overlaps."""
    conflicts = [
        o for o in profile.overlaps if _label(catalog, o.first) != _label(catalog, o.second)
    ]
    shown = [_card(catalog, (o.first, o.second)) for o in conflicts[:_CLUSTERS]]
    statistics = Table(["class", "images", *_STATISTICS], _statistics_rows(catalog, profile))
    sections = [
        Section("Checks", [checks_table(checks)]),
        Section("What predicts the class", [Table(_SCORES_HEADER, _score_rows(scores))]),
        Section("Image statistics by class", [statistics]),
        *images,
        Section("Label conflicts", [_gallery(shown)]),
        Section("Overlapping pairs across train, val and test", [_pairs(file.parent)]),
        Section("Images of the same field", _fields(catalog, profile)),
        Section("Estimated slide groups", _slides(catalog, slides)),
    ]
    write_html(file, "Audit", sections, _overview(file.parent, catalog, checks))


def _overview(folder: Path, catalog: Catalog, checks: Sequence[Check]) -> Overview:
    counts = ", ".join(f"{count} {name}" for name, count in catalog.counts().items())
    names = [*_FILES, *(name for name in (LABEL_ISSUES,) if (folder / name).is_file())]
    return Overview(
        f"Data audit, {today()}, bcd {bcd.__version__}",
        *verdict_parts(checks),
        facts=[
            ("data", f"{catalog.root}, fingerprint {catalog.fingerprint()[:16]}"),
            ("images", f"{len(catalog.images)}: {counts}"),
        ],
        files=[Link(name, name) for name in names],
    )


_FILES = ("audit.json", "pairs.csv", "split.csv", "config.yaml", "run.json")
_SCORES_HEADER = ("source", "split", "balanced accuracy", "accuracy", "n")
_VERDICTS = {
    FAIL: "The audit failed. Do not rely on the figures before this is resolved:",
    WARN: "The audit has warnings. Read the figures with this in mind:",
    PASS: "The audit passed. It is about images and split, not about how good the model is.",
}


def verdict_parts(checks: Sequence[Check]) -> tuple[str, str, list[str]]:
    """The worst status, a sentence on it, and the findings behind it."""
    status = worst(checks)
    reasons = [f"{c.name}: {c.finding}" for c in checks if c.status == status != PASS]
    return status, _VERDICTS[status], reasons


def checks_table(checks: Sequence[Check]) -> Table:
    """A table of checks."""
    return Table(["status", "check", "finding", "fix"], check_rows(checks), numeric=False)


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


def _card(catalog: Catalog, indices: Iterable[int], lines: Sequence[str] = ()) -> Card:
    """Small images beside each other, and their names unless other lines are given."""
    import cv2

    pictures = []
    for index in indices:
        image = catalog.images[index]
        pixels = read_image(catalog.root / image.path)
        small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        name = f"{written_path(image.path)} ({catalog.classes[image.label]})"
        pictures.append(Picture(np.asarray(small, np.uint8), name))
    return Card(pictures, lines or [picture.caption for picture in pictures])


def _gallery(cards: Iterable[Card]) -> Block:
    found = list(cards)
    return Gallery(found) if found else "None."


def _pairs(folder: Path) -> Block:
    """The contact sheet of `write_overlaps`, if there is one."""
    if not (folder / "figures" / f"{PAIRS_FIGURE}.png").is_file():
        return "None."
    return Figure(PAIRS_FIGURE, "overlapping pairs of test and train or val")


def _fields(catalog: Catalog, profile: DataProfile) -> list[Block]:
    """Images that show the same field."""
    sets = sorted((own for own in profile.sets() if len(own) > 1), key=lambda own: -len(own))
    cards = (_card(catalog, own[:_MEMBERS]) for own in sets[:_CLUSTERS])
    blocks: list[Block] = ["All pairs are in pairs.csv.", _gallery(cards)]
    if len(sets) > _CLUSTERS:
        blocks.append(f"{len(sets) - _CLUSTERS} more clusters are in pairs.csv.")
    return blocks


def _slides(catalog: Catalog, slides: Slides) -> list[Block]:
    """A few images of each estimated slide group."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(slides.groups):
        members[group].append(index)
    largest = sorted(members, key=lambda group: (-len(members[group]), group))[:_GROUPS]
    cards = []
    for group in sorted(largest):
        own = members[group]
        few = [own[i] for i in np.linspace(0, len(own) - 1, min(_PER_GROUP, len(own))).astype(int)]
        cards.append(_card(catalog, few, [f"{group}: {len(own)} images"]))
    blocks: list[Block] = [_gallery(cards)]
    if len(members) > _GROUPS:
        blocks.append(f"{len(members) - _GROUPS} smaller groups are not shown.")
    return blocks
