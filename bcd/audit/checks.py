"""Checks of files, overlaps, split and slide groups: status, finding and fix."""

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

_MANY = 0.01  # share of leaked test images above which the status is FAIL instead of WARN
_RARE = 0.2  # share of the largest class below which a class is called rare
_DROP = "data.drop_duplicates=true"
NOT_ESTABLISHED = "patient-level separation: not established"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        status: PASS, WARN or FAIL.
        finding: What was found, in one line.
        fix: The option or action that fixes it; empty if there is nothing to fix.
        facts: Values and lists for `audit.json`.
    """

    name: str
    status: str
    finding: str
    fix: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def worst(checks: Sequence[Check]) -> str:
    """The worst status of all checks."""
    found = {check.status for check in checks}
    return next((status for status in (FAIL, WARN) if status in found), PASS)


def check_files(catalog: Catalog) -> list[Check]:
    """Checks for unusable files, unusual image sizes and class imbalance."""
    reasons = Counter(item.reason for item in catalog.rejected if not was_dropped(item))
    dropped = len(catalog.rejected) - reasons.total()
    left_out = f"; {dropped} excluded by {_DROP}" if dropped else ""
    facts = {"rejected": [vars(item) for item in catalog.rejected]}
    if reasons:
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        fix = "repair or remove the files listed in audit.json"
        finding = f"{reasons.total()} unusable: {counted}{left_out}"
        files = Check("files", WARN, finding, fix, facts)
    else:
        finding = f"all {len(catalog.images) + dropped} can be read{left_out}"
        files = Check("files", PASS, finding, "", facts)
    return [files, _sizes(catalog), _balance(catalog)]


def _sizes(catalog: Catalog) -> Check:
    sizes = Counter((p.width, p.height) for p in catalog.images)
    (usual, _), *others = sizes.most_common()
    text = f"{usual[0]} x {usual[1]} pixels"
    if not others:
        return Check("image sizes", PASS, f"all {text}")
    unusual = [p.path for p in catalog.images if (p.width, p.height) != usual]
    finding = f"{len(unusual)} of {len(catalog.images)} are not {text}"
    facts = {"sizes": {f"{w}x{h}": n for (w, h), n in sizes.items()}, "unusual": unusual}
    return Check("image sizes", WARN, finding, "check the images listed in audit.json", facts)


def _balance(catalog: Catalog) -> Check:
    counts = catalog.counts()
    rare = min(counts, key=counts.__getitem__)
    finding = ", ".join(f"{name} {count}" for name, count in counts.items())
    if counts[rare] >= _RARE * max(counts.values()):
        return Check("class balance", PASS, finding, "", {"counts": counts})
    fix = "model.class_weights=balanced"
    return Check("class balance", WARN, f"{rare} is rare: {finding}", fix, {"counts": counts})


def check_overlaps(catalog: Catalog, profile: DataProfile) -> list[Check]:
    """Checks for exact and near duplicates, overlaps, and fields labelled with two classes."""
    kinds = Counter(pair.kind for pair in profile.overlaps)
    exact = sum(kinds[kind] for kind in COPIES)
    near, partly = kinds["near"], kinds["overlap"]
    sizes = np.bincount(profile.components)
    sets = {"clusters": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0))}
    finding = (
        f"{partly} more pairs share less of a field; in total, {sets['clusters']} clusters contain "
        f"{int(sizes[sizes > 1].sum())} images, the largest {sets['largest']}"
    )
    labels = np.asarray(catalog.labels, np.int64)
    cut = link(np.arange(len(labels)), labels, profile.overlaps)[1]

    def found(name: str, own: Sequence[str], finding: str, more: str, facts: Any) -> Check:
        count = sum(kinds[kind] for kind in own)
        fix = _kept_together(count, sum(pair.kind in own for pair in cut)) + more
        return Check(name, WARN if count else PASS, finding, fix if count else "", facts)

    same = f"{exact} pairs of files with the same content"
    share = f"{near} more pairs share at least {DUPLICATE_SHARE:.0%} of a field"
    finding = finding if partly else "no other pair shares part of a field"
    return [
        found("exact duplicates", COPIES, same, f"; {_DROP}", {"pairs": exact}),
        found("near duplicates", ("near",), share, f"; {_DROP}", {"pairs": near}),
        found("overlaps", ("overlap",), finding, "", sets),
        _conflicts(catalog, profile),
    ]


def _kept_together(count: int, cut: int) -> str:
    """What a split by slide groups does to pairs; it separates `cut` of them."""
    if not cut:
        return "split=grouped split.groups=auto keeps them in the same set"
    return f"split=grouped split.groups=auto keeps all but {cut} of {count} in the same set"


def _conflicts(catalog: Catalog, profile: DataProfile) -> Check:
    labels, paths = catalog.labels, [image.path for image in catalog.images]
    crossing = [
        {"first": paths[o.first], "second": paths[o.second], "kind": o.kind, "overlap": o.share}
        for o in profile.overlaps
        if labels[o.first] != labels[o.second]
    ]
    finding = f"{len(crossing)} pairs show the same field but have different labels"
    settle = f"determine the correct class; {_DROP} excludes copies and near duplicates"
    status = FAIL if crossing else PASS
    fix = settle if crossing else ""
    return Check("label conflicts", status, finding, fix, {"pairs": crossing})


def check_split(
    catalog: Catalog, split: Split, cfg: SplitConfig, profile: DataProfile, data: DataConfig
) -> list[Check]:
    """Checks for leaks from train into test, patient-level separation, and class shares."""
    found = find_leaks(profile, *(split.indices(subset) for subset in ("train", "val", "test")))
    share = len(found.all) / max(1, found.tested)
    finding = found.summary
    if split.cut and cfg.kind == "grouped":
        finding += (
            f"; {split.cut} overlaps were ignored, because their chains were too large for a split"
        )
    fix = "split=grouped split.groups=auto or split=blocked" if found.all else ""
    if found.all and _keeps_overlaps(
        cfg
    ):  # such a split has cut the chains that lead to these leaks
        fix = "use accuracy_without_leaked in metrics.json instead of accuracy"
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
    """Whether test has the requested share of each class; a CSV requests only some of each."""
    far = far_from_share(catalog, split, cfg)
    tested = Counter(catalog.images[i].label for i in split.indices("test"))
    counts = catalog.counts()
    held = [f"{tested[k] / counts[name]:.0%} of {name}" for k, name in enumerate(counts)]
    none = [name for k, name in enumerate(counts) if not tested[k]]
    if none and not far:
        far = [f"test has no images of {', '.join(none)}"]
    fix = other_split(cfg) if far else ""
    finding = "; ".join(far) or f"test has {', '.join(held)}"
    return Check("class shares", WARN if far else PASS, finding, fix)


def _separation(catalog: Catalog, cfg: SplitConfig, data: DataConfig, split: Split) -> Check:
    name = "separation"
    given = cfg.kind in ("csv", "stratified", "kfold") or cfg.groups == "given"
    if given and cfg.kind != "blocked" and any(split.groups):
        if split.groups != tuple(image.group for image in catalog.images):
            return _given_separation(name, "split.file's column 'group'", split, _UNKNOWN_KIND)
        doubt = _ONLY_FILES if any(p.group and not p.given_group for p in catalog.images) else ""
        source = data.group_pattern or "the CSV's column 'group'"
        if not any(image.given_group for image in catalog.images):
            source = "the files of several pictures"
        return _given_separation(name, source, split, doubt)
    what = "estimated slide groups" if cfg.groups == "auto" else "blocks of files"
    groups, crossing, _ = _count_groups(split)
    kept = {
        "grouped": f"{groups} {what}, {crossing} of them in more than one of train, val, test",
        "blocked": f"blocks of consecutive files, with {cfg.embargo} files excluded between them",
        "csv": "no groups are known, so images of one slide may be in both train and test",
    }.get(
        cfg.kind,
        "images are split individually, so images of one slide may be in both train and test",
    )
    return Check(name, WARN, f"{NOT_ESTABLISHED}; {kept}", _NAME)


_NAME = "identify the patients: data.group_pattern=<regular expression>, or a CSV with 'group'"


_ONLY_FILES = "files of several pictures are groups, and one patient may have several files"

_UNKNOWN_KIND = "the file does not say whether they are patients or estimated slide groups"


def _given_separation(name: str, source: str, split: Split, doubt: str = "") -> Check:
    """Counts the given groups that are in more than one of train, val and test.

    Args:
        name: Of the check.
        source: Of the groups.
        split: The split that has them.
        doubt: Why the groups may not be patients; empty if they are.
    """
    groups, crossing, ungrouped = _count_groups(split)
    found = f"{groups} groups ({source})"
    if not crossing and not ungrouped and not doubt:
        return Check(name, PASS, f"{found} are each in a single set")
    if ungrouped:
        found += f", {ungrouped} images have none"
    finding = (
        f"{NOT_ESTABLISHED}; {found}; {crossing} groups are in more than one of train, val, test"
    )
    finding += f"; {doubt}" if doubt else ""
    fix = "split=grouped split.groups=given keeps each group in a single set" if crossing else _NAME
    return Check(
        name, WARN, finding, fix, {"groups_in_several_sets": crossing, "ungrouped": ungrouped}
    )


def _count_groups(split: Split) -> tuple[int, int, int]:
    """Numbers of groups, of groups in several subsets, and of used images without a group."""
    subsets: dict[str, set[str]] = {}
    ungrouped = 0
    for subset, group in zip(split.subsets, split.groups, strict=bool(split.groups)):
        if subset != "excluded" and group:
            subsets.setdefault(group, set()).add(subset)
        ungrouped += subset != "excluded" and not group
    return len(subsets), sum(len(found) > 1 for found in subsets.values()), ungrouped


def check_slides(slides: Slides) -> Check:
    """Checks how reliable the estimated slide groups are, by class."""
    strengths = [
        f"{name} {_strength(value)} ({value:.2f}{_sessions(slides.strides[name])})"
        for name, value in slides.certainty.items()
    ]
    counts = Counter(group.rpartition("/")[0] for group in dict.fromkeys(slides.groups))
    facts = {"groups": dict(counts), "strides": slides.strides, "certainty": slides.certainty}
    weak = min(slides.certainty.values()) < _MODERATE
    return Check(
        "estimated slide groups",
        WARN if weak else PASS,
        f"{len(set(slides.groups))} groups estimated from stain, light, overlaps and file order; "
        f"evidence for the order: {'; '.join(strengths)}",
        "provide the groups in a CSV" if weak else "",
        facts,
    )


_MODERATE, _STRONG = 0.15, 0.4


def _strength(certainty: float) -> str:
    return "strong" if certainty >= _STRONG else "moderate" if certainty >= _MODERATE else "weak"


def _sessions(stride: int) -> str:
    return "" if stride == 1 else f", {stride} interleaved acquisition sessions"
