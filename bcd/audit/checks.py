"""Checks: what was found, whether that is well, and the option that fixes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bcd.audit.leaks import find_leaks
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.quality.overlaps import COPIES, DUPLICATE_SHARE
from bcd.data.quality.profile import DataProfile, was_dropped
from bcd.data.splits.linking import link
from bcd.data.splits.slide_groups import Slides
from bcd.data.splits.split import Split, far_from_share, other_split

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"

_MANY = 0.01  # share of test images from which on leaks are a failure, not a blemish
_RARE = 0.2  # of the largest class: a smaller class is told to be rare
_DROP = "data.drop_duplicates=true"
NOT_ESTABLISHED = "patient-level separation: not established"


@dataclass(frozen=True)
class Check:
    """One question to the data and its answer.

    Attributes:
        name: What was looked at.
        status: PASS, WARN or FAIL.
        finding: What was found, in one line of plain words.
        fix: The option or act that fixes it; empty where all is well.
        facts: Figures and lists for `audit.json`.
    """

    name: str
    status: str
    finding: str
    fix: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def worst(checks: Sequence[Check]) -> str:
    """The worst status among checks."""
    found = {check.status for check in checks}
    return next((status for status in (FAIL, WARN) if status in found), PASS)


def check_files(catalog: Catalog) -> list[Check]:
    """Unusable files, odd sizes and class balance."""
    reasons = Counter(item.reason for item in catalog.rejected if not was_dropped(item))
    dropped = len(catalog.rejected) - reasons.total()
    left_out = f"; {dropped} left out by {_DROP}" if dropped else ""
    facts = {"rejected": [vars(item) for item in catalog.rejected]}
    if reasons:
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        fix = "repair or remove the files listed in audit.json"
        told = f"{reasons.total()} unusable: {told}{left_out}"
        files = Check("files", WARN, told, fix, facts)
    else:
        told = f"all {len(catalog.images) + dropped} can be read{left_out}"
        files = Check("files", PASS, told, "", facts)
    return [files, _sizes(catalog), _balance(catalog)]


def _sizes(catalog: Catalog) -> Check:
    sizes = Counter((p.width, p.height) for p in catalog.images)
    (usual, _), *others = sizes.most_common()
    text = f"{usual[0]} x {usual[1]} pixels"
    if not others:
        return Check("sizes", PASS, f"all {text}")
    odd = [p.path for p in catalog.images if (p.width, p.height) != usual]
    finding = f"{len(odd)} of {len(catalog.images)} are not {text}"
    facts = {"sizes": {f"{w}x{h}": n for (w, h), n in sizes.items()}, "odd": odd}
    return Check("sizes", WARN, finding, "look at the images listed in audit.json", facts)


def _balance(catalog: Catalog) -> Check:
    counts = catalog.counts()
    rare = min(counts, key=counts.__getitem__)
    finding = ", ".join(f"{name} {count}" for name, count in counts.items())
    if counts[rare] >= _RARE * max(counts.values()):
        return Check("class balance", PASS, finding, "", {"counts": counts})
    fix = "model.class_weights=balanced"
    return Check("class balance", WARN, f"{rare} is rare: {finding}", fix, {"counts": counts})


def check_overlaps(catalog: Catalog, profile: DataProfile) -> list[Check]:
    """Exact and near duplicates, overlaps, and the same field under two classes."""
    kinds = Counter(pair.kind for pair in profile.overlaps)
    exact = sum(kinds[kind] for kind in COPIES)
    near, partly = kinds["near"], kinds["overlap"]
    sizes = np.bincount(profile.components)
    sets = {"clusters": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0))}
    finding = (
        f"{partly} more pairs share less than that; in all {sets['clusters']} clusters hold "
        f"{int(sizes[sizes > 1].sum())} images, the largest {sets['largest']}"
    )
    labels = np.asarray(catalog.labels, np.int64)
    cut = link(np.arange(len(labels)), labels, profile.overlaps)[1]

    def found(name: str, own: Sequence[str], finding: str, more: str, facts: Any) -> Check:
        count = sum(kinds[kind] for kind in own)
        fix = _kept_together(count, sum(pair.kind in own for pair in cut)) + more
        return Check(name, WARN if count else PASS, finding, fix if count else "", facts)

    same = f"{exact} pairs of files with the same content"
    share = f"{near} more pairs share {DUPLICATE_SHARE:.0%} of a field or more"
    finding = finding if partly else "no other pair was found to share a field"
    return [
        found("exact duplicates", COPIES, same, f"; {_DROP}", {"pairs": exact}),
        found("near duplicates", ("near",), share, f"; {_DROP}", {"pairs": near}),
        found("overlaps", ("overlap",), finding, "", sets),
        _conflicts(catalog, profile),
    ]


def _kept_together(count: int, cut: int) -> str:
    """What a split by likely slides does to pairs; `cut` of them are in chains too long for it."""
    if not cut:
        return "split=grouped split.groups=auto keeps them on one side"
    return f"split=grouped split.groups=auto keeps all but {cut} of {count} on one side"


def _conflicts(catalog: Catalog, profile: DataProfile) -> Check:
    labels, paths = catalog.labels, [image.path for image in catalog.images]
    crossing = [
        {"first": paths[o.first], "second": paths[o.second], "kind": o.kind, "overlap": o.share}
        for o in profile.overlaps
        if labels[o.first] != labels[o.second]
    ]
    finding = f"{len(crossing)} pairs of one field stand under two classes"
    settle = f"settle which class is right; {_DROP} leaves copies and near duplicates out"
    status = FAIL if crossing else PASS
    fix = settle if crossing else ""
    return Check("label conflicts", status, finding, fix, {"pairs": crossing})


def check_split(
    catalog: Catalog, split: Split, cfg: SplitConfig, profile: DataProfile, data: DataConfig
) -> list[Check]:
    """Leaks from train into test, separation of patients, and shares of the classes."""
    found = find_leaks(profile, *(split.indices(part) for part in ("train", "val", "test")))
    share = len(found.all) / max(1, found.tested)
    finding = found.told
    if split.cut and cfg.kind == "grouped":
        finding += f"; {split.cut} overlaps were cut, as their chains grew too large for a split"
    fix = "split=grouped split.groups=auto or split=blocked" if found.all else ""
    if found.all and _keeps_overlaps(cfg):  # which has cut the chains that lead to these
        fix = "take accuracy_without_leaked, which metrics.json has beside accuracy"
    status = FAIL if share > _MANY else WARN if found.all else PASS
    facts = {
        name: [catalog.images[i].path for i in indices]
        for name, indices in (
            ("leaked", found.all),
            ("leaked_train", found.train),
            ("leaked_val", found.val),
        )
    }
    checks = [
        Check("leaks", status, finding, fix, {**facts, "cut": split.cut}),
        _separation(catalog, cfg, data, split),
    ]
    checks.append(_shares(catalog, split, cfg))
    return checks


def _keeps_overlaps(cfg: SplitConfig) -> bool:
    return cfg.kind == "blocked" or (cfg.kind == "grouped" and cfg.groups != "given")


def _shares(catalog: Catalog, split: Split, cfg: SplitConfig) -> Check:
    """Whether test holds of each class what was asked for; a CSV asks for nothing but some."""
    far = far_from_share(catalog, split, cfg)
    tested = Counter(catalog.images[i].label for i in split.indices("test"))
    counts = catalog.counts()
    held = [f"{tested[k] / counts[name]:.0%} of {name}" for k, name in enumerate(counts)]
    none = [name for k, name in enumerate(counts) if not tested[k]]
    if none and not far:
        far = [f"test holds no image of {', '.join(none)}"]
    fix = other_split(cfg) if far else ""
    finding = "; ".join(far) or f"test holds {', '.join(held)}"
    return Check("shares", WARN if far else PASS, finding, fix)


def _separation(catalog: Catalog, cfg: SplitConfig, data: DataConfig, split: Split) -> Check:
    name = "separation"
    given = cfg.kind in ("csv", "stratified", "kfold") or cfg.groups == "given"
    if given and cfg.kind != "blocked" and any(split.groups):
        if split.groups != tuple(image.group for image in catalog.images):
            return _given_separation(name, "split.file's column 'group'", split, _UNKNOWN_KIND)
        return _given_separation(name, data.group_pattern or "the CSV's column 'group'", split)
    what = "likely slides" if cfg.groups == "auto" else "blocks of files"
    groups, parted, _ = _parted(split)
    kept = {
        "grouped": f"{groups} {what}, {parted} of them in more than one of train, val, test",
        "blocked": f"stretches of file order with {cfg.embargo} files left out between them",
        "csv": "no groups are known, so one slide may be on both sides of the CSV's split",
    }.get(cfg.kind, "images are shared out one by one: one slide may be on both sides")
    return Check(name, WARN, f"{NOT_ESTABLISHED}; {kept}", _NAME)


_NAME = "name the patients: data.group_pattern=<regular expression>, or a CSV with 'group'"


_UNKNOWN_KIND = "the file does not say whether they are patients or likely slides"


def _given_separation(name: str, source: str, split: Split, doubt: str = "") -> Check:
    """Counts the given groups that are in more than one part.

    Args:
        name: Of the check.
        source: Of the groups.
        split: Which has them.
        doubt: Why they may be no facts; empty where they are.
    """
    groups, parted, lacking = _parted(split)
    told = f"{groups} groups ({source})"
    if not parted and not lacking and not doubt:
        return Check(name, PASS, f"{told} are each on one side")
    if lacking:
        told += f", {lacking} images have none"
    finding = f"{NOT_ESTABLISHED}; {told}; {parted} groups are in more than one of train, val, test"
    finding += f"; {doubt}" if doubt else ""
    fix = "split=grouped split.groups=given keeps groups on one side" if parted else _NAME
    return Check(name, WARN, finding, fix, {"parted": parted, "ungrouped": lacking})


def _parted(split: Split) -> tuple[int, int, int]:
    """Numbers of groups, of those in more than one part, and of used images without a group."""
    parts: dict[str, set[str]] = {}
    lacking = 0
    for subset, group in zip(split.subsets, split.groups, strict=bool(split.groups)):
        if subset != "excluded" and group:
            parts.setdefault(group, set()).add(subset)
        lacking += subset != "excluded" and not group
    return len(parts), sum(len(found) > 1 for found in parts.values()), lacking


def check_slides(slides: Slides) -> Check:
    """How sure the likely slides are, class by class."""
    told = [
        f"{name} {_sure(value)} ({value:.2f}{_turns(slides.strides[name])})"
        for name, value in slides.certainty.items()
    ]
    counts = Counter(group.rpartition("/")[0] for group in dict.fromkeys(slides.groups))
    facts = {"groups": dict(counts), "strides": slides.strides, "certainty": slides.certainty}
    unsure = min(slides.certainty.values()) < _PARTLY
    return Check(
        "likely slides",
        WARN if unsure else PASS,
        f"{len(set(slides.groups))} guessed from stain, light, overlaps and file order; "
        f"order tells: {'; '.join(told)}",
        "groups from a CSV are surer" if unsure else "",
        facts,
    )


_PARTLY, _CLEARLY = 0.15, 0.4


def _sure(certainty: float) -> str:
    return "clearly" if certainty >= _CLEARLY else "partly" if certainty >= _PARTLY else "hardly"


def _turns(stride: int) -> str:
    return "" if stride == 1 else f", {stride} sittings numbered in turns"
