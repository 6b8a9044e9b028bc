"""Which test images a ranking has seen, as they are val or train in runs with another split."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bcd.sweeps.trials import Trial


@dataclass(frozen=True)
class Seen:
    """Test images of the best configuration's runs, and what they are in other runs.

    Attributes:
        tested: Number of different test images.
        val: How many of them are val in a run that was ranked.
        train: How many of them are train in one.
        configurations: Number of configurations that were ranked.
    """

    tested: int
    val: int
    train: int
    configurations: int

    @property
    def differs(self) -> bool:
        """Whether runs were split differently, so that images changed parts."""
        return bool(self.val or self.train)


def find_seen(
    sweep: Path, winners: Sequence[Trial], ranked: Sequence[Trial], configurations: int
) -> Seen:
    """Counts, from the runs' `split.csv`, the best configuration's test images that others used.

    Args:
        sweep: Folder of the sweep.
        winners: Finished runs of the best configuration.
        ranked: Finished runs of all configurations.
        configurations: Number of configurations that have any.
    """
    parts = {trial.name: read_parts(sweep / trial.name) for trial in ranked}
    tested = set[str]().union(*(parts[trial.name]["test"] for trial in winners))
    val, train = (
        sum(any(image in own[part] for own in parts.values()) for image in tested)
        for part in ("val", "train")
    )
    return Seen(len(tested), val, train, configurations)


def read_parts(run: Path) -> dict[str, set[str]]:
    """Images of train, val and test by content and path, from a run's `split.csv`."""
    parts: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    with (run / "split.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["subset"] in parts:
                parts[row["subset"]].add(f"{row['sha256']} {row['path']}")
    return parts


def seen_text(seen: Seen | None) -> str:
    """What was seen, in a sentence; empty where all runs share a split."""
    if seen is None or not seen.differs:
        return ""
    if seen.configurations < 2:
        return (
            f"the runs were split differently: of their {seen.tested} different test images "
            f"{seen.val} are val and {seen.train} are train in another run; with one configuration "
            "nothing was chosen by them"
        )
    n = f"the best configuration's {seen.tested} different test images"
    if not seen.val:
        return (
            f"the runs were split differently: of {n} none is val in another run, but {seen.train} "
            "are train in one"
        )
    return (
        f"the ranking has seen test images of other splits: of {n} {seen.val} are val in another "
        f"run, by which configurations were ranked, and {seen.train} are train in one; the figures "
        "on test may flatter the best configuration"
    )
