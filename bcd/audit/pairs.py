"""Pairs of overlapping images: all of them as CSV, and those that a split separates as a figure."""

from __future__ import annotations

from pathlib import Path

from bcd.data.catalog import Catalog
from bcd.data.quality.overlaps import Overlap, write_pairs
from bcd.data.quality.profile import DataProfile
from bcd.data.reading import fit, read_image
from bcd.data.splits.split import Split
from bcd.reporting.figures import TILE, draw_tiles, png
from bcd.storage import replacing


def cross_set_pairs(profile: DataProfile, split: Split) -> list[Overlap]:
    """Overlaps between test and train or val, largest first."""
    found = []
    for pair in profile.overlaps:
        subsets = {split.subsets[pair.first], split.subsets[pair.second]} - {"excluded"}
        if len(subsets) == 2 and "test" in subsets:
            found.append(pair)
    return sorted(found, key=lambda pair: (-pair.share, pair.first, pair.second))


PAIRS_FIGURE = "cross_set_pairs"


_MAX_PAIRS = 12


def write_overlaps(
    folder: Path, catalog: Catalog, profile: DataProfile, sheet: bytes | None
) -> None:
    """Writes `pairs.csv` and the sheet of `overlap_sheet`, as `figures/cross_set_pairs.png`."""
    write_pairs(folder / "pairs.csv", catalog, profile.overlaps)
    if sheet is not None:
        with replacing(folder / "figures" / f"{PAIRS_FIGURE}.png") as stream:
            stream.write(sheet)


def overlap_sheet(catalog: Catalog, profile: DataProfile, split: Split) -> bytes | None:
    """A contact sheet of pairs that the split separates, as PNG; None if it separates none.

    It shows at most twelve pairs, from the largest overlap to the smallest.
    """
    pairs = cross_set_pairs(profile, split)
    if not pairs:
        return None
    step = max(1, len(pairs) / _MAX_PAIRS)
    shown = [pairs[int(number * step)] for number in range(min(_MAX_PAIRS, len(pairs)))]
    tiles, titles = [], []
    for pair in shown:
        for index in (pair.first, pair.second):
            path = catalog.images[index].path
            tiles.append(fit(read_image(catalog.root / path), TILE))
            titles.append(f"{Path(path).name}\n{split.subsets[index]}, {pair.share:.0%} shared")
    columns = 4 if len(shown) > 1 else 2
    return png(draw_tiles(tiles, titles, columns))
