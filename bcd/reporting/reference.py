"""The page about a change of model version: what changed, and whether to go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bcd.config.disclaimer import DISCLAIMER
from bcd.console import say
from bcd.data.reading import read_image
from bcd.evaluation.model_change import EXCEEDED, MET, Answers, Check, ModelChange
from bcd.evaluation.reference_set import FrozenModel, ReferenceSet
from bcd.reporting.document import Section, Table, write_html
from bcd.reporting.gallery import Card, Gallery, Picture
from bcd.reporting.html import Cell, Link
from bcd.reporting.overview import Overview, Tile, percent, today
from bcd.reporting.reference_words import decision, findings
from bcd.storage import write_csv, write_text, written_path

PAGE = "reference.html"
_LISTED = 100  # changed images on the page; the CSV has all
_SHOWN = 24  # pictures


def write_change(
    folder: Path,
    root: Path,
    frozen: ReferenceSet,
    model: FrozenModel,
    answers: tuple[Answers, Answers],
    change: ModelChange,
) -> None:
    """Writes `reference.html`, `change.json` and `changes.csv`, and prints the decision.

    Args:
        folder: For the files.
        root: Folder of the images.
        frozen: The reference set.
        model: The new version.
        answers: Of the old and of the new version.
        change: What changed.
    """
    facts = {
        "go_on": change.go_on,
        "n": change.n,
        "n_groups": change.n_groups,
        "set": frozen.sha256,
        "models": {"old": asdict(frozen.model), "new": asdict(model)},
        "checks": [asdict(check) for check in change.checks],
        "shares": [asdict(share) for share in change.shares],
        "moved": [[*pair, count] for pair, count in sorted(change.moved.items())],
        "changed": [frozen.images[place].path for place in change.changed],
        "newly_unsafe": [frozen.images[place].path for place in change.newly_unsafe],
        "largest_change_of_a_probability": change.largest,
    }
    write_text(folder / "change.json", json.dumps(facts, indent=1, allow_nan=False) + "\n")
    header, rows = _changed_rows(frozen, answers, change)
    write_csv(folder / "changes.csv", header, rows)
    sections = [
        _limits_section(change),
        _shares_section(change),
        _moved_section(change),
        _images_section(root, frozen, change, header, rows),
        _set_section(frozen, model),
    ]
    write_html(folder / PAGE, "Change of model version", sections, _overview(frozen, model, change))
    say(f"decision: {decision(change)}")
    for line in findings(frozen, model, change):
        say(f"  {line}")
    say(f"results: {folder / PAGE}")


def _overview(frozen: ReferenceSet, model: FrozenModel, change: ModelChange) -> Overview:
    results = {check.result for check in change.checks}
    status = "FAIL" if EXCEEDED in results else "PASS" if change.go_on else "WARN"
    tiles = [
        Tile(share.name.capitalize(), percent(share.new), [f"before: {percent(share.old)}"])
        for share in change.shares
    ]
    facts: list[tuple[str, Cell]] = [
        ("old version", _named(frozen.model)),
        ("new version", _named(model)),
        ("reference set", f"{change.n} images, frozen {frozen.frozen_at}, {frozen.sha256[:12]}"),
    ]
    return Overview(
        f"{today()}. {DISCLAIMER}", status, decision(change).capitalize() + ".",
        findings(frozen, model, change), tiles, facts=facts,
        files=[Link(name, name) for name in ("change.json", "changes.csv")],
    )  # fmt: skip


def _named(model: FrozenModel) -> str:
    return f"{model.name}, sha256 {model.sha256[:12]}, card {model.card_sha256[:12]}"


def _limits_section(change: ModelChange) -> Section:
    badges = {MET: "PASS", EXCEEDED: "FAIL"}
    rows = [
        [check.name, *(_number(check, one) for one in (check.limit, check.found, check.worst)),
         badges.get(check.result, "WARN"), check.result]
        for check in change.checks
    ]  # fmt: skip
    over = "images, as the set has no groups: each image counts as a patient of its own"
    if change.n_groups is not None:
        worth = max(check.trials or 0 for check in change.checks)
        over = (
            f"{change.n_groups} groups, which are worth {worth:.1f} groups of equal size: a group "
            "counts as one, however many images it has"
        )
    text = (
        "The limits were frozen with the set, before the new version was known. A loss, rise or "
        "fall must be excluded: the end of its 95 % interval has to be below the limit. Intervals "
        f"are of paired differences over {over}. Numbers of images are counts of the set, without "
        "an interval. No limit covers specificity and unsafe benign images."
    )
    header = ["limit of", "limit", "found", "not excluded up to", "", "result"]
    return Section("Limits", [text, Table(header, rows)])


def _number(check: Check, value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.0f}" if check.trials is None else f"{value + 0.0:.4f}"  # no -0


def _shares_section(change: ModelChange) -> Section:
    rows = []
    for share in change.shares:
        value, low, high = share.difference
        rows.append(
            [share.name, str(share.n), f"{share.trials:.1f}".removesuffix(".0"),
             f"{share.old:.4f}", f"{share.new:.4f}", f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"]
        )  # fmt: skip
    text = (
        "Sensitivity: share of malignant images that are called malignant. Unsafe: wrong about "
        "malignancy and not referred. An image without an answer is wrong and referred. Worth: "
        "the number of independent images, or of groups of equal size, that the interval is of."
    )
    header = ["share", "images", "worth", "old", "new", "new - old"]
    return Section("Shares", [Table(header, rows), text])


def _moved_section(change: ModelChange) -> Section:
    names = sorted({name for pair in change.moved for name in pair})
    rows = [[old, *(str(change.moved[old, new]) for new in names)] for old in names]
    largest = "" if change.largest is None else f"{change.largest:.6f}"
    text = (
        f"Rows: predicted by the old version. Columns: by the new one. {len(change.changed)} of "
        f"{change.n} images changed in class, call of malignancy or referral; the largest change "
        f"of a probability is {largest or 'unknown'}."
    )
    return Section("Predicted classes", [text, Table(["", *names], rows)])


def _changed_rows(
    frozen: ReferenceSet, answers: tuple[Answers, Answers], change: ModelChange
) -> tuple[list[str], list[list[str]]]:
    header = ["path", "class", "group", "old", "new", "p old", "p new", "malignant old",
              "malignant new", "referred old", "referred new", "newly unsafe"]  # fmt: skip
    unsafe = set(change.newly_unsafe)
    rows = []
    for place in sorted(change.changed, key=lambda place: (place not in unsafe, place)):
        image = frozen.images[place]
        shown = [image.path, image.class_name, image.group]
        shown += [one.predicted[place] for one in answers]
        shown += [_probability(one, place) for one in answers]
        shown += [_yes(one.malignant[place]) for one in answers]
        shown += [_yes(one.refer[place]) for one in answers]
        rows.append([*shown, _yes(place in unsafe)])
    return header, rows


def _probability(answers: Answers, place: int) -> str:
    row = answers.probabilities[place]
    return "" if row[0] != row[0] else f"{row.max():.4f}"


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _images_section(
    root: Path,
    frozen: ReferenceSet,
    change: ModelChange,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Section:
    if not rows:
        return Section("Images that changed", ["No image changed."])
    shown = [[written_path(cell) for cell in row] for row in rows[:_LISTED]]
    by_path = {image.path: image for image in frozen.images}
    cards = []
    for row in rows[:_SHOWN]:
        image = by_path[row[0]]
        pixels = read_image(root / image.path)
        caption = f"{written_path(image.path)}, {image.class_name}"
        cards.append(Card([Picture(pixels, caption)], [caption, f"{row[3]} → {row[4]}"]))
    more = f" The first {len(shown)} are here." if len(rows) > len(shown) else ""
    text = f"All {len(rows)} are in changes.csv, newly unsafe ones first.{more}"
    return Section("Images that changed", [text, Table(header, shown, False), Gallery(cards)])


def _set_section(frozen: ReferenceSet, model: FrozenModel) -> Section:
    counts: dict[str, int] = {}
    for image in frozen.images:
        counts[image.class_name] = counts.get(image.class_name, 0) + 1
    rows = [[name, str(counts.get(name, 0))] for name in frozen.classes]
    versions = [
        [when, one.name, one.sha256, one.card_sha256, str(one.settings),
         "unknown" if one.trained is None else str(one.trained)]
        for when, one in (("old", frozen.model), ("new", model))
    ]  # fmt: skip
    header = ["", "file", "sha256", "sha256 of the card", "settings of the site",
              "images of the set it was trained on"]  # fmt: skip
    return Section(
        "The set and the versions",
        [
            f"Frozen {frozen.frozen_at} by bcd {frozen.bcd_version}; sha256 of the set "
            f"{frozen.sha256}. Every image had the frozen sha256 when it was answered again.",
            Table(["class", "images"], rows),
            Table(header, versions, False),
        ],
    )
