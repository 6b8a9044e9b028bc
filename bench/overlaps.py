"""Checks the audit's pairs by other means: ORB with RANSAC, sharing no code with the audit.

python -m bench.overlaps data/smears --audit outputs/audit/<run> [--splits <run or audit> ...]

Candidates are neighbours in file order and nearest descriptions, other classes included: no two
classes share a field here, so pairs found across classes are the check's own false positives.
"""

from __future__ import annotations

import argparse
import csv
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 448  # twice the published images' side
_FEATURES = 600
_BAR = (0.8, 0.87)  # shares of width and height from which on a scale bar may stand
_NEXT, _LIKE = 8, 16  # neighbours in file order, and by description, of each image
_NEAR = 5.0  # pixels
_KINDS = {"exact", "bytes", "pixels"}

Pairs = set[tuple[int, int]]


@dataclass(frozen=True)
class Seen:
    """An image: its ORB keypoints and descriptors, and a description that shifts hardly change."""

    points: NDArray[np.float32]
    bits: Any
    text: NDArray[np.float32]


def main() -> None:
    """Registers candidates and compares what is found with the audit's pairs and with splits."""
    parser = argparse.ArgumentParser(prog="python -m bench.overlaps", description=__doc__)
    parser.add_argument("root", type=Path, help="folder of class folders")
    parser.add_argument("--audit", type=Path, required=True, help="folder with pairs.csv")
    parser.add_argument("--splits", type=Path, nargs="*", default=[], help="with split.csv")
    parser.add_argument("--inliers", type=int, default=20)
    asked = parser.parse_args()
    files = sorted((f for f in asked.root.glob("*/*") if f.is_file()), key=_numbered)
    with ThreadPoolExecutor() as pool:
        seen = list(pool.map(_see, files))
        pairs = sorted(_neighbours(files) | _likest(seen))
        found = list(pool.map(lambda pair: _inliers(seen[pair[0]], seen[pair[1]]), pairs))
    names = [f.relative_to(asked.root).as_posix() for f in files]
    kept = {pair for pair, count in zip(pairs, found, strict=True) if count >= asked.inliers}
    crossing = [pair for pair in pairs if files[pair[0]].parent != files[pair[1]].parent]
    false = kept & set(crossing)
    own = kept - false
    known = _known(asked.audit / "pairs.csv", names)
    missed = own - known
    print(f"{len(files)} images, {len(pairs)} candidates, {asked.inliers} or more inliers:")
    print(f"{len(own)} pairs; {len(false)} false among {len(crossing)} pairs of different classes")
    print(
        f"unknown to the audit: {len(missed)} of {len(own)} ({len(missed) / max(len(own), 1):.1%})"
    )
    for first, second in sorted(missed):
        print(f"  {names[first]}  {names[second]}")
    for folder in asked.splits:
        print(f"{folder.name}: {_leaks(folder / 'split.csv', names, own)}")


def _numbered(file: Path) -> tuple[str, list[int], str]:
    return file.parent.name, [int(n) for n in re.findall(r"\d+", file.name)], file.name


def _see(file: Path) -> Seen:
    image: Any = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= cv2.GaussianBlur(small, (0, 0), 12)
    waves = np.abs(np.fft.fft2(small * np.outer(np.hanning(64), np.hanning(64))))[:14, :14]
    text = np.log(waves.ravel()[1:] + 1)
    text -= text.mean()
    image = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    image = cv2.createCLAHE(2.0, (4, 4)).apply(image)
    mask = np.full(image.shape, 255, np.uint8)
    mask[int(_BAR[1] * _SIDE) :, int(_BAR[0] * _SIDE) :] = 0
    points, bits = cv2.ORB.create(_FEATURES, 1.2, 6).detectAndCompute(image, mask)
    places = np.asarray([p.pt for p in points], np.float32).reshape(-1, 2)
    return Seen(places, bits, np.asarray(text / np.linalg.norm(text), np.float32))


def _neighbours(files: list[Path]) -> Pairs:
    return {
        (i, i + step)
        for step in range(1, _NEXT + 1)
        for i in range(len(files) - step)
        if files[i].parent == files[i + step].parent
    }


def _likest(seen: list[Seen]) -> Pairs:
    texts = np.stack([one.text for one in seen])
    alike = texts @ texts.T
    np.fill_diagonal(alike, -2)
    best = np.argpartition(-alike, _LIKE, axis=1)[:, :_LIKE]
    return {(min(i, int(j)), max(i, int(j))) for i, row in enumerate(best) for j in row}


def _inliers(first: Seen, second: Seen) -> int:
    """Matches that one shift, rotation and scale near 1 explains."""
    if first.bits is None or second.bits is None or min(len(first.bits), len(second.bits)) < 4:
        return 0
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
    pairs = matcher.knnMatch(first.bits, second.bits, k=2)
    good = [m for m, *rest in pairs if rest and m.distance < 0.8 * rest[0].distance]
    if len(good) < 8:
        return 0
    source = first.points[[m.queryIdx for m in good]]
    target = second.points[[m.trainIdx for m in good]]
    matrix, inside = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=_NEAR)
    if matrix is None or not 0.8 < np.hypot(matrix[0, 0], matrix[1, 0]) < 1.25:
        return 0
    # One place that matches many is one witness.
    return len({tuple(point) for point in np.round(source[inside.ravel() > 0] / 8).astype(int)})


def _known(file: Path, names: list[str]) -> Pairs:
    """The audit's pairs; copies of an image overlap whatever it overlaps."""
    place = {name: number for number, name in enumerate(names)}
    same = list(range(len(names)))
    with file.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["path_a"] in place]
    pairs = [(place[row["path_a"]], place[row["path_b"]], row["kind"]) for row in rows]
    for first, second, kind in pairs:
        if kind in _KINDS:
            same[second] = same[first]
    edges = {frozenset((same[a], same[b])) for a, b, _ in pairs}
    members: dict[int, list[int]] = {}
    for number, own in enumerate(same):
        members.setdefault(own, []).append(number)
    known: Pairs = set()
    for edge in edges | {frozenset((own,)) for own in members}:
        ends = [i for own in edge for i in members[own]]
        known |= {(i, j) for i in ends for j in ends if i < j}
    return known


def _leaks(file: Path, names: list[str], pairs: Pairs) -> str:
    with file.open(newline="", encoding="utf-8") as stream:
        subset = {row["path"]: row["subset"] for row in csv.DictReader(stream)}
    tested = [i for i, name in enumerate(names) if subset.get(name) == "test"]
    leaked = set()
    for first, second in pairs:
        for i, other in ((first, second), (second, first)):
            if subset.get(names[i]) == "test" and subset.get(names[other]) in ("train", "val"):
                leaked.add(i)
    share = len(leaked) / max(len(tested), 1)
    return f"{len(leaked)} of {len(tested)} test images leaked ({share:.1%})"


if __name__ == "__main__":
    main()
