"""Assigns each image to the train, val or test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcd.config.schema import FOLDED, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.files import file_units, keep_whole, refuse_torn, without_torn
from bcd.data.splits.grouping import (
    hang_together,
    name_groups,
    part_blocks,
    part_groups,
    settled_blocks,
)
from bcd.data.splits.split_file import read_subsets
from bcd.errors import BcdError
from bcd.storage import write_csv

SUBSETS = ("train", "val", "test", "excluded")


@dataclass(frozen=True)
class Split:
    """The subset of each image of a catalog.

    Attributes:
        subsets: One of `SUBSETS` for each image, in the catalog's order.
        groups: Slide, patient or block of each image; empty if unknown.
        clusters: Set of images whose errors may be correlated: the image's group, joined with
            others where images overlap. The bootstrap resamples clusters. Empty for a single image.
        cut: Number of overlaps that were cut because they would have made a cluster too large.
    """

    subsets: tuple[str, ...]
    groups: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    cut: int = 0

    def indices(self, subset: str) -> list[int]:
        """Indices of a subset's images, ascending; `all` means every image that is not excluded."""
        if subset == "all":
            return [i for i, s in enumerate(self.subsets) if s != "excluded"]
        return [i for i, s in enumerate(self.subsets) if s == subset]

    def clusters_of(self, subset: str) -> list[str]:
        """Cluster of each of a subset's images, in the order of `indices`."""
        return [self.clusters[i] if self.clusters else "" for i in self.indices(subset)]

    def class_shares(self, subset: str, catalog: Catalog) -> list[float]:
        """Share of each class in a subset, (classes,); they sum to 1."""
        counts = Counter(catalog.images[i].label for i in self.indices(subset))
        return [counts[k] / counts.total() for k in range(len(catalog.classes))]

    def hashes(self, catalog: Catalog) -> dict[str, list[str]]:
        """`<sha256> <class>` of each subset's images, repeated for copies of a file."""
        return {
            subset: [_recorded(catalog, i) for i in self.indices(subset)] for subset in SUBSETS[:3]
        }

    def write(self, file: Path, catalog: Catalog) -> None:
        """Writes `split.csv`: path, class, group, cluster, sha256, subset.

        Rejected files are excluded.
        """
        none = ("",) * len(self.subsets)
        columns = self.groups or none, self.clusters or none, self.subsets
        rows = [
            (p.path, catalog.classes[p.label], group, cluster, p.sha256, subset)
            for p, group, cluster, subset in zip(catalog.images, *columns, strict=True)
        ]
        rows += [(r.path, r.class_name, "", "", "", "excluded") for r in catalog.rejected]
        write_csv(file, ("path", "class", "group", "cluster", "sha256", "subset"), rows)


def make_split(catalog: Catalog, cfg: SplitConfig, profile: DataProfile | None = None) -> Split:
    """Splits a catalog as configured by the `split` group.

    Args:
        catalog: The images.
        cfg: `split.test` is a share of all images, `split.val` of what is left for training.
        profile: Of the same images; without it overlaps are unknown, and overlapping images may be
            in different sets.

    Returns:
        The split: each of train, val and test has every class, and no file is in two of them.

    Raises:
        BcdError: A class is too small, groups or subsets are missing, or subsets divide a file.
    """
    labels = np.array(catalog.labels)
    groups = tuple(image.group for image in catalog.images)
    if cfg.kind == "csv":
        subsets, groups = read_subsets(catalog, cfg.file, SUBSETS)
    else:
        _check_sizes(catalog, cfg)
    if cfg.kind == "grouped":
        groups = name_groups(catalog, cfg, profile)
    elif cfg.kind == "blocked" and not any(image.given_group for image in catalog.images):
        groups = settled_blocks(catalog, cfg.group_size, profile)
    units = file_units(catalog)
    groups = keep_whole(groups, units)
    together, cut = hang_together(groups, catalog.labels, profile)
    if cfg.kind == "blocked":
        blocks = np.array(part_blocks(catalog, cfg, profile), dtype=object)
        subsets = without_torn(blocks, units)
    elif cfg.kind != "csv":
        subsets = _by_chance(labels, together if cfg.kind == "grouped" else units, cfg)
    else:
        refuse_torn(catalog, subsets, units)
    if cfg.train_share < 1 and cfg.kind != "csv":
        subsets = _thinned(subsets, labels, together, cfg)
    clusters = name_clusters(together, catalog, groups)
    split = Split(tuple(str(s) for s in subsets), groups, clusters, len(cut))
    _check_classes(catalog, split, cfg)
    return split


def name_clusters(together: np.ndarray, catalog: Catalog, groups: Sequence[str]) -> tuple[str, ...]:
    """Names clusters by the group or path of their first image; a single image keeps its group."""
    sizes, names = Counter(together.tolist()), dict[int, str]()
    for image, number, group in zip(catalog.images, together.tolist(), groups, strict=True):
        names.setdefault(number, group or (image.path if sizes[number] > 1 else ""))
    return tuple(names[number] for number in together.tolist())


def _by_chance(labels: np.ndarray, together: np.ndarray | None, cfg: SplitConfig) -> np.ndarray:
    everything = np.arange(len(labels))
    if cfg.folds is not None and cfg.kind in FOLDED:
        rest, test = _fold(everything, labels, together, cfg)
    else:
        rest, test = _part(everything, labels, together, cfg.test, cfg.seed)
    train, val = _part(rest, labels, together, cfg.val, cfg.seed)
    subsets = np.full(len(labels), "excluded", dtype=object)
    for name, indices in (("train", train), ("val", val), ("test", test)):
        subsets[indices] = name
    return subsets


def _thinned(
    subsets: np.ndarray, labels: np.ndarray, together: np.ndarray, cfg: SplitConfig
) -> np.ndarray:
    """Leaves a share of the training images out, in whole groups except of random splits."""
    grouped = None if cfg.kind in ("stratified", "kfold") else together
    train = np.flatnonzero(subsets == "train")
    _, kept = _part(train, labels, grouped, cfg.train_share, cfg.seed)
    thinned = subsets.copy()
    thinned[np.setdiff1d(train, kept)] = "excluded"
    return thinned


def far_from_share(catalog: Catalog, split: Split, cfg: SplitConfig) -> list[str]:
    """Lists classes whose share in the test set is over 3 points from the configured one."""
    if cfg.kind == "csv":
        return []
    wanted = 1 / cfg.folds if cfg.folds and cfg.kind in FOLDED else cfg.test
    tested = Counter(catalog.images[i].label for i in split.indices("test"))
    said = []
    for label, (name, count) in enumerate(catalog.counts().items()):
        share = tested[label] / count
        # For a small class, no whole number of images may be within three points.
        if abs(share - wanted) > max(_FAR, 1 / count):
            said.append(f"test holds {share:.0%} of {name}, not {wanted:.0%}")
    return said


_FAR = 0.03


def recorded_indices(catalog: Catalog, recorded: Sequence[str]) -> list[int]:
    """Finds images by sha256, each as often as its hash is listed.

    Copies of one file may be in different subsets and classes. Copies of the recorded class are
    taken first, others only if a recorded image now has another class.

    Args:
        catalog: The images.
        recorded: Images of a subset, as listed by `Split.hashes`.

    Returns:
        Their indices, ascending.
    """
    exact, left = Counter(recorded), list[int]()
    found = []
    for i in range(len(catalog.images)):
        key = _recorded(catalog, i)
        if exact[key] > 0:
            exact[key] -= 1
            found.append(i)
        else:
            left.append(i)
    wanted = Counter(sha256_of(key) for key in exact.elements())
    for i in left:
        sha256 = catalog.images[i].sha256
        if wanted[sha256] > 0:
            wanted[sha256] -= 1
            found.append(i)
    return sorted(found)


def _recorded(catalog: Catalog, index: int) -> str:
    image = catalog.images[index]
    return f"{image.sha256} {catalog.classes[image.label]}"


def sha256_of(recorded: str) -> str:
    """The sha256 of an image that `Split.hashes` lists."""
    return recorded.partition(" ")[0]


def _part(
    indices: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divides indices into (the rest, a share of them), stratified, without splitting groups."""
    if groups is not None:
        return part_groups(indices, labels, groups, share, seed)
    from sklearn.model_selection import train_test_split

    classes = len(np.unique(labels[indices]))
    count = max(classes, round(share * len(indices)))
    try:
        rest, part = train_test_split(
            indices, test_size=count, stratify=labels[indices], random_state=seed
        )
    except ValueError as error:
        raise BcdError(
            f"{count} of {len(indices)} images cannot be held out so that each of {classes} "
            "classes is on both sides: change split.test, split.val or split.folds, or add "
            "images"
        ) from error
    # A class too rare for its share to round to one image still gets one.
    absent = sorted(set(labels[rest]) - set(labels[part]))
    moved = [rest[labels[rest] == label][0] for label in absent]
    return np.setdiff1d(rest, moved), np.union1d(part, moved).astype(indices.dtype)


def _fold(
    indices: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, cfg: SplitConfig
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    assert cfg.folds is not None
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = kind(cfg.folds, shuffle=True, random_state=cfg.seed)
    rest, test = list(folds.split(indices, labels, groups))[cfg.fold]
    return rest, test


def _check_sizes(catalog: Catalog, cfg: SplitConfig) -> None:
    least = max(3, cfg.folds or 0) if cfg.kind in FOLDED else 3
    for name, count in catalog.counts().items():
        if count < least:
            raise BcdError(
                f"class '{name}' has {count} usable image{'s' * (count != 1)} in {catalog.root}: "
                f"split={cfg.kind} requires at least {least} of each class"
            )


def other_split(cfg: SplitConfig) -> str:
    """Settings to change for a different split; only those that this kind of split uses."""
    if cfg.kind == "csv":
        return "another split.file" if cfg.file else "other values in the CSV's column 'split'"
    keys = cfg.read_of("seed", "test", "val", "fold", "group_size", "embargo")
    groups = ", or other groups" if (cfg.kind, cfg.groups) == ("grouped", "given") else ""
    return f"another {', '.join(keys[:-1])} or {keys[-1]}{groups}"


def _check_classes(catalog: Catalog, split: Split, cfg: SplitConfig) -> None:
    for subset in SUBSETS[:3]:
        present = {catalog.images[i].label for i in split.indices(subset)}
        absent = [name for i, name in enumerate(catalog.classes) if i not in present]
        if absent:
            files = file_units(catalog) is not None
            why = " (pictures of one file are kept in one set)" if files else ""
            raise BcdError(
                f"the {subset} set has no image of class '{absent[0]}'{why}: give "
                f"{other_split(cfg)}"
            )
