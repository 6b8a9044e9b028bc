"""Pairs of images that overlap, shown to a person: those that a split puts into different parts."""

from __future__ import annotations

from bcd.data.quality.overlaps import Overlap
from bcd.data.quality.profile import Survey
from bcd.data.splits.split import Split


def parted(survey: Survey, split: Split) -> list[Overlap]:
    """Overlaps of which one image is in test and the other in train or val, the largest first."""
    found = []
    for pair in survey.overlaps:
        parts = {split.subsets[pair.first], split.subsets[pair.second]} - {"excluded"}
        if len(parts) == 2 and "test" in parts:
            found.append(pair)
    return sorted(found, key=lambda pair: (-pair.share, pair.first, pair.second))
