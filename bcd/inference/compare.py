"""Compares two checkpoints on the same images and decides whether one is better."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bcd.config.programs import CompareConfig
from bcd.console import say
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.quality.profile import profile_images
from bcd.data.splits.grouping import hang_together
from bcd.data.splits.split import recorded_indices
from bcd.errors import BcdError
from bcd.evaluation.bootstrap import join_groups
from bcd.evaluation.comparison import Comparison, compare_results
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.inference.evaluate import evaluate_images
from bcd.inference.parts import count_trained, data_config, warn_of_relabelled
from bcd.reporting.comparison import show_comparison, write_comparison
from bcd.run_folder import check_no_run, find_checkpoint, write_run_info


def compare_checkpoints(cfg: CompareConfig) -> Comparison:
    """Compares two checkpoints and writes figures, a verdict and their disagreements.

    Without `data.root` it compares on the images of the first run that are in the recorded test
    sets of both, found by sha256; with it, on all images there.

    Args:
        cfg: Checked configuration.

    Raises:
        BcdError: A checkpoint is missing or has no decision policy, both are the same file, the
            classes differ, there are no images to compare on, or answers are not finite.
    """
    started = time.time()
    run_dir = Path(cfg.run_dir).absolute()
    check_no_run(run_dir)
    files = [find_checkpoint(ckpt) for ckpt in cfg.ckpts]
    (network_a, a), (network_b, b) = (load_checkpoint(file, cfg.uncalibrated) for file in files)
    if files[0].samefile(files[1]):
        raise BcdError(f"ckpts: both are {files[0]}: give two different checkpoints")
    _check_classes(a, b)
    first, second = (cfg.of(ckpt) for ckpt in cfg.ckpts)
    catalog = load_catalog(data_config(first, a), a.classes, a.sides)
    indices = _choose(catalog, a, b, cfg.subset or ("test" if cfg.data.root is None else "all"))
    for name, card in (("a", a), ("b", b)):
        _warn_of_trained(name, count_trained(catalog, card, indices), len(indices))
        warn_of_relabelled(catalog, card)
    others = _in_the_order_of(catalog, b.classes)
    results = (
        evaluate_images(first, network_a, a, catalog, indices, "a"),
        evaluate_images(second, network_b, b, others, indices, "b"),
    )
    order = [b.classes.index(name) for name in a.classes]
    groups = shared_groups(catalog, (a, b), indices)
    found = compare_results(catalog, indices, results, order, groups)
    write_comparison(cfg, catalog, indices, found, files)
    write_run_info(
        run_dir,
        started,
        checkpoints=[str(file) for file in files],
        data=catalog.identity(),
        rejected=[vars(item) for item in catalog.rejected],
    )
    show_comparison(cfg, catalog, found, files)
    return found


def _check_classes(a: Card, b: Card) -> None:
    if set(a.classes) != set(b.classes):
        raise BcdError(
            f"a has the classes {', '.join(a.classes)}, b has {', '.join(b.classes)}: only models "
            "with the same classes can be compared"
        )


def _in_the_order_of(catalog: Catalog, classes: Sequence[str]) -> Catalog:
    """The same images with the classes in another order."""
    labels = [classes.index(name) for name in catalog.classes]
    images = tuple(replace(p, label=labels[p.label]) for p in catalog.images)
    benign = None if catalog.benign is None else labels[catalog.benign]
    return replace(catalog, classes=tuple(classes), benign=benign, images=images)


def _choose(catalog: Catalog, a: Card, b: Card, subset: str) -> list[int]:
    if subset == "all":
        return list(range(len(catalog.images)))
    shared = list((Counter(a.split["test"]) & Counter(b.split["test"])).elements())
    if not shared:
        raise BcdError(
            "no image is in the test sets of both checkpoints: give data.root=<images that "
            "neither was trained on>"
        )
    indices = recorded_indices(catalog, shared)
    if not indices:
        raise BcdError(
            f"none of the {len(shared)} images in the test sets of both checkpoints is in "
            f"{catalog.root}: give data.root=<where they are> and subset=test"
        )
    say(
        f"{len(indices)} images are in the test sets of both checkpoints "
        f"(a {len(a.split['test'])}, b {len(b.split['test'])})"
    )
    if len(indices) < len(shared):
        say(f"warning: {len(shared) - len(indices)} more are not in {catalog.root}")
    return indices


def _warn_of_trained(name: str, count: int, n: int) -> None:
    if count:
        say(
            f"warning: {name} was trained or chosen on {count} of {n} images (same sha256): "
            "the comparison is biased in its favor"
        )


def shared_groups(
    catalog: Catalog, cards: tuple[Card, Card], indices: Sequence[int]
) -> list[int] | None:
    """Number of each image's group, joining the groups that both runs recorded.

    An image for which neither run recorded a group is in the catalog's group, together with all
    other images of that group. Copies are in the same group. Where neither run has all of the
    images, overlapping images are in the same group too.

    Args:
        catalog: The images.
        cards: Those of the two checkpoints.
        indices: Indices in the catalog of the images to compare.

    Returns:
        Numbers (n,) in the order of `indices`; None where all groups are single images.
    """
    images = [catalog.images[i] for i in indices]
    recorded = [[card.groups.get(p.sha256, "") for p in images] for card in cards]
    of_own = {p.group for p, *names in zip(images, *recorded, strict=True) if not any(names)}
    own = [p.group if p.group in of_own else "" for p in images]
    namings = [*recorded, own, [p.sha256 for p in images]]
    return join_groups([*namings, _overlapping(catalog, cards, indices)])


def _overlapping(catalog: Catalog, cards: tuple[Card, Card], indices: Sequence[int]) -> list[str]:
    """Set of overlapping images that each is in; empty where a run's groups include overlaps."""
    for card in cards:
        known = card.sha256s()
        if all(catalog.images[i].sha256 in known for i in indices):
            return [""] * len(indices)
    none = [""] * len(catalog.images)
    together, _ = hang_together(none, catalog.labels, profile_images(catalog))
    return [f"{together[i]}" for i in indices]
