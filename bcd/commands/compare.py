"""Compares two checkpoints on the same pictures, and says whether one is better."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.commands.evaluate import (
    count_trained,
    data_config,
    evaluate_pictures,
    warn_of_relabelled,
)
from bcd.config.programs import CompareConfig
from bcd.console import say, show_table
from bcd.data.catalog import Catalog, load_catalog
from bcd.data.quality.profile import survey_pictures
from bcd.data.reading import read_picture
from bcd.data.splits.grouping import hang_together
from bcd.data.splits.split import recorded_indices
from bcd.errors import BcdError
from bcd.evaluation.bootstrap import joined_groups
from bcd.evaluation.comparison import Difference, paired_interval, paired_p, verdict
from bcd.evaluation.disagreements import (
    Disagreement,
    draw_disagreements,
    find_disagreements,
    write_disagreements,
)
from bcd.evaluation.results import Result, absent_line
from bcd.inference.checkpoint import Card, find_checkpoint, load_checkpoint
from bcd.reporting.figures import save_figure
from bcd.run_folder import write_config, write_run_info
from bcd.storage import write_text

COMPARED = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        metrics: Figures of either model, as in `metrics.json`.
        differences: Of the figures in `COMPARED`, b minus a.
        right: Pictures that `both`, `only a`, `only b` and `neither` got right.
        p: That they are right equally often, by `paired_p`.
        groups: How many intervals and p are over; None where they are over pictures.
        disagreements: The most certain first.
        verdict: In plain words.
    """

    metrics: dict[str, dict[str, Any]]
    differences: dict[str, Difference]
    right: dict[str, int]
    p: float
    groups: int | None
    disagreements: list[Disagreement]
    verdict: str


def compare_checkpoints(cfg: CompareConfig) -> Comparison:
    """Compares two checkpoints and writes figures, a verdict and where they disagree.

    Without `data.root` the pictures are those of the first one's run that are in the recorded test
    part of both, found by sha256. With one, all of its pictures.

    Args:
        cfg: Checked configuration.

    Raises:
        BcdError: No checkpoint, one without a judge, other classes, no pictures that both can be
            compared on, or answers that are not finite.
    """
    started = time.time()
    files = [find_checkpoint(ckpt) for ckpt in cfg.ckpts]
    (network_a, a), (network_b, b) = (load_checkpoint(file, cfg.uncalibrated) for file in files)
    _check_classes(a, b)
    first, second = (cfg.of(ckpt) for ckpt in cfg.ckpts)
    catalog = load_catalog(data_config(first, a), a.classes)
    indices = _choose(catalog, a, b, cfg.subset or ("test" if cfg.data.root is None else "all"))
    for name, card in (("a", a), ("b", b)):
        _warn_of_trained(name, count_trained(catalog, card, indices), len(indices))
        warn_of_relabelled(catalog, card)
    others = _in_the_order_of(catalog, b.classes)
    results = (
        evaluate_pictures(first, network_a, a, catalog, indices, "a"),
        evaluate_pictures(second, network_b, b, others, indices, "b"),
    )
    order = [b.classes.index(name) for name in a.classes]
    found = _compare(catalog, indices, results, order, shared_groups(catalog, (a, b), indices))
    _write(cfg, catalog, indices, found, files)
    write_run_info(
        Path(cfg.run_dir).absolute(),
        started,
        checkpoints=[str(file) for file in files],
        data=catalog.identity(),
        rejected=[vars(item) for item in catalog.rejected],
    )
    _tell(cfg, catalog, found, files)
    return found


def _check_classes(a: Card, b: Card) -> None:
    if set(a.classes) != set(b.classes):
        raise BcdError(
            f"a knows {', '.join(a.classes)}, b knows {', '.join(b.classes)}: only models of the "
            "same classes can be compared"
        )


def _in_the_order_of(catalog: Catalog, classes: Sequence[str]) -> Catalog:
    """The same pictures with classes in another order."""
    labels = [classes.index(name) for name in catalog.classes]
    pictures = tuple(replace(p, label=labels[p.label]) for p in catalog.pictures)
    benign = None if catalog.benign is None else labels[catalog.benign]
    return replace(catalog, classes=tuple(classes), benign=benign, pictures=pictures)


def _choose(catalog: Catalog, a: Card, b: Card, subset: str) -> list[int]:
    if subset == "all":
        return list(range(len(catalog.pictures)))
    shared = list((Counter(a.split["test"]) & Counter(b.split["test"])).elements())
    if not shared:
        raise BcdError(
            "no picture is in the test part of both checkpoints: give data.root=<pictures that "
            "neither was trained on>"
        )
    indices = recorded_indices(catalog, shared)
    if not indices:
        raise BcdError(
            f"none of the {len(shared)} pictures in the test part of both checkpoints is in "
            f"{catalog.root}: give data.root=<where they are> and subset=test"
        )
    say(
        f"{len(indices)} pictures are in the test part of both checkpoints "
        f"(a {len(a.split['test'])}, b {len(b.split['test'])})"
    )
    if len(indices) < len(shared):
        say(f"warning: {len(shared) - len(indices)} more are not in {catalog.root}")
    return indices


def _warn_of_trained(name: str, count: int, n: int) -> None:
    if count:
        say(
            f"warning: {name} was trained or chosen on {count} of {n} pictures (same sha256): "
            "the comparison flatters it"
        )


def _probabilities(result: Result) -> NDArray[np.float64]:
    return np.array([prediction.probabilities for prediction in result.predictions])


def shared_groups(
    catalog: Catalog, cards: tuple[Card, Card], indices: Sequence[int]
) -> list[int] | None:
    """Number of each picture's group, where the groups that both runs recorded are joined.

    A picture that neither run recorded in a group is in the catalog's, with all others that the
    catalog has there; copies are in one group. Where neither run knows all the pictures, those that
    overlap are in one too.

    Args:
        catalog: The pictures.
        cards: Of the two checkpoints.
        indices: Of the pictures compared, in the catalog.

    Returns:
        (n,), in the order of `indices`; None where no two pictures are in one group.
    """
    pictures = [catalog.pictures[i] for i in indices]
    recorded = [[card.groups.get(p.sha256, "") for p in pictures] for card in cards]
    of_own = {p.group for p, *names in zip(pictures, *recorded, strict=True) if not any(names)}
    own = [p.group if p.group in of_own else "" for p in pictures]
    namings = [*recorded, own, [p.sha256 for p in pictures]]
    return joined_groups([*namings, _overlapping(catalog, cards, indices)])


def _overlapping(catalog: Catalog, cards: tuple[Card, Card], indices: Sequence[int]) -> list[str]:
    """Set of each picture by overlaps within the catalog; empty where a run's groups have them."""
    for card in cards:
        known = card.sha256s()
        if all(catalog.pictures[i].sha256 in known for i in indices):
            return [""] * len(indices)
    none = [""] * len(catalog.pictures)
    together, _ = hang_together(none, catalog.labels, survey_pictures(catalog))
    return [f"{together[i]}" for i in indices]


def _compare(
    catalog: Catalog,
    indices: Sequence[int],
    results: tuple[Result, Result],
    order: Sequence[int],
    groups: list[int] | None,
) -> Comparison:
    """Compares results; `order` finds the first one's classes among those of the second."""
    labels = np.array(catalog.labels)[list(indices)]
    of_a, of_b = _probabilities(results[0]), _probabilities(results[1])[:, order]
    said = of_a.argmax(axis=1), of_b.argmax(axis=1)
    intervals = paired_interval(labels, said[1], said[0], len(catalog.classes), groups)
    a, b = said[0] == labels, said[1] == labels
    p = paired_p(a, b, groups)
    return Comparison(
        metrics={"a": results[0].metrics, "b": results[1].metrics},
        differences={name: intervals[name] for name in COMPARED},
        right={
            "both": int((a & b).sum()),
            "only a": int((a & ~b).sum()),
            "only b": int((b & ~a).sum()),
            "neither": int((~a & ~b).sum()),
        },
        p=p,
        groups=None if groups is None else len(set(groups)),
        disagreements=find_disagreements(of_a, of_b, labels, catalog.classes),
        verdict=verdict(intervals["accuracy"], p),
    )


def _write(
    cfg: CompareConfig,
    catalog: Catalog,
    indices: Sequence[int],
    found: Comparison,
    files: Sequence[Path],
) -> None:
    """Writes `config.yaml`, `comparison.json`, `disagreements.csv` and their figure."""
    run_dir = Path(cfg.run_dir).absolute()
    write_config(run_dir, cfg)
    facts = {
        "verdict": found.verdict,
        "n": len(indices),
        "groups": found.groups,
        "difference": {name: d._asdict() for name, d in found.differences.items()},
        "right": found.right,
        "p": found.p,
        "test": _test(found),
        "disagreements": len(found.disagreements),
        **{
            name: {"checkpoint": str(file), "metrics": found.metrics[name]}
            for name, file in zip("ab", files, strict=True)
        },
    }
    write_text(run_dir / "comparison.json", json.dumps(facts, indent=1) + "\n")
    pictures = [catalog.pictures[i] for i in indices]
    paths = [picture.path for picture in pictures]
    write_disagreements(
        run_dir / "disagreements.csv", found.disagreements, paths, [p.group for p in pictures]
    )
    figure = draw_disagreements(
        found.disagreements, paths, lambda i: read_picture(catalog.root / paths[i])
    )
    if figure is not None:
        save_figure(figure, run_dir / "figures" / "disagreements.png")


def _test(found: Comparison) -> str:
    """What `p` is from."""
    return "exact McNemar" if found.groups is None else "random signs of groups"


def _tell(cfg: CompareConfig, catalog: Catalog, found: Comparison, files: Sequence[Path]) -> None:
    rows = []
    for name, (value, low, high) in found.differences.items():
        both = [f"{found.metrics[model][name]:.4f}" for model in "ab"]
        rows.append([name.replace("_", " "), *both, f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"])
    over = "pictures" if found.groups is None else f"{found.groups} groups"
    show_table(
        f"On {found.metrics['a']['n']} pictures; 95 % intervals over {over}",
        ["figure", "a", "b", "b - a"],
        rows,
    )
    if line := absent_line(found.metrics["a"]):
        say(f"warning: {line}")
    for name, file in zip("ab", files, strict=True):
        known = "" if found.metrics[name]["calibrated"] else "  (uncalibrated)"
        say(f"{name}: {file}{known}")
    right = ", ".join(f"{who} {count}" for who, count in found.right.items())
    say(f"right: {right}; {_test(found)} p = {found.p:.2g}")
    if found.groups is not None and (least := 2 / 2**found.groups) >= 0.05:
        say(
            f"warning: over {found.groups} groups p is never below {least:.3g}, however they differ"
        )
    say(f"disagreements: {len(found.disagreements)}, listed in disagreements.csv")
    say(f"verdict: {found.verdict}")
    if catalog.rejected:
        say(f"turned away: {len(catalog.rejected)} files, listed in run.json")
    say(f"results: {cfg.run_dir}")
