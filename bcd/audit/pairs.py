"""Pairs of images that overlap, shown to a person: those that a split puts into different parts."""

from __future__ import annotations

from pathlib import Path

from bcd.data.catalog import Catalog
from bcd.data.quality.overlaps import Overlap, write_pairs
from bcd.data.quality.profile import DataProfile
from bcd.data.reading import fit, read_image
from bcd.data.splits.split import Split
from bcd.reporting.figures import TILE, draw_tiles, save_figure


def parted(profile: DataProfile, split: Split) -> list[Overlap]:
    """Overlaps of which one image is in test and the other in train or val, the largest first."""
    found = []
    for pair in profile.overlaps:
        parts = {split.subsets[pair.first], split.subsets[pair.second]} - {"excluded"}
        if len(parts) == 2 and "test" in parts:
            found.append(pair)
    return sorted(found, key=lambda pair: (-pair.share, pair.first, pair.second))


PARTED = "parted_pairs"


_MOST = 12  # pairs shown


def write_overlaps(folder: Path, catalog: Catalog, profile: DataProfile, split: Split) -> None:
    """Writes `pairs.csv` and, where the split parts pairs, a contact sheet of some of them.

    The sheet, `figures/parted_pairs.png`, shows at most twelve pairs, from the largest overlap to
    the least.
    """
    write_pairs(folder / "pairs.csv", catalog, profile.overlaps)
    pairs = parted(profile, split)
    if not pairs:
        return
    step = max(1, len(pairs) / _MOST)
    shown = [pairs[int(number * step)] for number in range(min(_MOST, len(pairs)))]
    tiles, titles = [], []
    for pair in shown:
        for index in (pair.first, pair.second):
            path = catalog.images[index].path
            tiles.append(fit(read_image(catalog.root / path), TILE))
            titles.append(f"{Path(path).name}\n{split.subsets[index]}, {pair.share:.0%} shared")
    columns = 4 if len(shown) > 1 else 2
    save_figure(draw_tiles(tiles, titles, columns), folder / "figures" / f"{PARTED}.png")
