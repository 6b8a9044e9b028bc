"""Checks: what was found, whether that is well, and the option that mends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bcd.audit.leaks import leaked
from bcd.config import DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.slides import Slides
from bcd.data.split import Split, far_from_share
from bcd.data.survey import Survey

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"

_MANY = 0.01  # share of test pictures from which on leaks are a failure, not a blemish
_RARE = 0.2  # of the largest class: a smaller class is told to be rare
NOT_ESTABLISHED = "patient-level separation: not established"


@dataclass(frozen=True)
class Check:
    """One question to the data and its answer.

    Attributes:
        name: What was looked at.
        status: PASS, WARN or FAIL.
        finding: What was found, in one line of plain words.
        mend: The option or act that mends it; empty where all is well.
        facts: Figures and lists for `audit.json`.
    """

    name: str
    status: str
    finding: str
    mend: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def worst(checks: Sequence[Check]) -> str:
    """The worst status among checks."""
    found = {check.status for check in checks}
    return next((status for status in (FAIL, WARN) if status in found), PASS)


def check_files(catalog: Catalog) -> list[Check]:
    """Unusable files, odd sizes and class balance."""
    reasons = Counter(item.reason for item in catalog.rejected)
    facts = {"rejected": [vars(item) for item in catalog.rejected]}
    if reasons:
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        mend = "repair or remove the files listed in audit.json"
        files = Check("files", WARN, f"{sum(reasons.values())} unusable: {told}", mend, facts)
    else:
        files = Check("files", PASS, f"all {len(catalog.pictures)} can be read", "", facts)
    return [files, _sizes(catalog), _balance(catalog)]


def _sizes(catalog: Catalog) -> Check:
    sizes = Counter((p.width, p.height) for p in catalog.pictures)
    (usual, _), *others = sizes.most_common()
    text = f"{usual[0]} x {usual[1]} pixels"
    if not others:
        return Check("sizes", PASS, f"all {text}")
    odd = [p.path for p in catalog.pictures if (p.width, p.height) != usual]
    finding = f"{len(odd)} of {len(catalog.pictures)} are not {text}"
    facts = {"sizes": {f"{w}x{h}": n for (w, h), n in sizes.items()}, "odd": odd}
    return Check("sizes", WARN, finding, "look at the pictures listed in audit.json", facts)


def _balance(catalog: Catalog) -> Check:
    counts = catalog.counts()
    rare = min(counts, key=counts.__getitem__)
    finding = ", ".join(f"{name} {count}" for name, count in counts.items())
    if counts[rare] >= _RARE * max(counts.values()):
        return Check("class balance", PASS, finding, "", {"counts": counts})
    mend = "model.class_weights=balanced"
    return Check("class balance", WARN, f"{rare} is rare: {finding}", mend, {"counts": counts})


def check_twins(catalog: Catalog, survey: Survey) -> list[Check]:
    """Exact and near duplicates, and the same picture under two classes."""
    labels = catalog.labels
    kinds = Counter(twin.kind for twin in survey.twins)
    mend = "split=grouped split.groups=auto keeps them on one side; data.drop_duplicates=true"
    exact = kinds["bytes"] + kinds["pixels"]
    pairs = [
        {
            "first": catalog.pictures[t.first].path,
            "second": catalog.pictures[t.second].path,
            "kind": t.kind,
            "likeness": t.likeness,
        }
        for t in survey.twins
    ]
    clusters = [c for c in np.bincount(survey.clusters) if c > 1]
    finding = f"{exact} pairs of files with the same content"
    checks = [Check("exact duplicates", WARN if exact else PASS, finding, mend if exact else "")]
    near = kinds["near"]
    finding = f"{near} more pairs show the same field; {len(clusters)} clusters in all"
    facts = {"pairs": pairs, "clusters": len(clusters)}
    checks.append(
        Check("near duplicates", WARN if near else PASS, finding, mend if near else "", facts)
    )
    crossing = [
        p for p, t in zip(pairs, survey.twins, strict=True) if labels[t.first] != labels[t.second]
    ]
    finding = f"{len(crossing)} pairs of twins stand under two classes"
    settle = "settle which class is right; data.drop_duplicates=true leaves both out"
    checks.append(
        Check(
            "label conflicts",
            FAIL if crossing else PASS,
            finding,
            settle if crossing else "",
            {"pairs": crossing},
        )
    )
    return checks


def check_split(
    catalog: Catalog, split: Split, cfg: SplitConfig, survey: Survey, data: DataConfig
) -> list[Check]:
    """Leaks from train into test, separation of patients, and shares of the classes."""
    tested = split.indices("test")
    found = leaked(survey, [*split.indices("train"), *split.indices("val")], tested)
    share = len(found) / max(1, len(tested))
    finding = f"{len(found)} of {len(tested)} test pictures have a twin in train or val"
    mend = "split=grouped split.groups=auto, or data.drop_duplicates=true" if found else ""
    status = FAIL if share > _MANY else WARN if found else PASS
    facts = {"leaked": [catalog.pictures[i].path for i in found]}
    checks = [Check("leaks", status, finding, mend, facts), _separation(cfg, data, split)]
    far = far_from_share(catalog, split, cfg)
    finding = "; ".join(far) or "each class is shared out as asked for"
    mend = "other groups, split.seed or split.group_size" if far else ""
    checks.append(Check("shares", WARN if far else PASS, finding, mend))
    return checks


def _separation(cfg: SplitConfig, data: DataConfig, split: Split) -> Check:
    name = "separation"
    if cfg.kind == "grouped" and cfg.groups == "given":
        count = len(set(split.groups))
        source = data.group_pattern or "the CSV's column 'group'"
        return Check(name, PASS, f"{count} groups ({source}) are each on one side")
    kept = {
        "grouped": "likely slides are kept apart" if cfg.groups == "auto" else "blocks of files",
        "blocked": f"blocks of files with {cfg.embargo} left out between them",
    }.get(cfg.kind, "pictures are shared out one by one: one slide is on both sides")
    mend = "name the patients: data.group_pattern=<regular expression>, or a CSV with 'group'"
    return Check(name, WARN, f"{NOT_ESTABLISHED}; {kept}", mend)


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
        f"{len(set(slides.groups))} by stain, light and file order; order tells: {'; '.join(told)}",
        "groups from a CSV are surer" if unsure else "",
        facts,
    )


_PARTLY, _CLEARLY = 0.15, 0.4


def _sure(certainty: float) -> str:
    return "clearly" if certainty >= _CLEARLY else "partly" if certainty >= _PARTLY else "hardly"


def _turns(stride: int) -> str:
    return "" if stride == 1 else f", {stride} sittings numbered in turns"
