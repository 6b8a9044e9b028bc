"""Test exposure: test images that the ranking used, being in val or train of other runs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bcd.sweeps.trials import Trial


@dataclass(frozen=True)
class Exposure:
    """Test images of the best configuration's runs, and their use in other runs.

    Attributes:
        tested: Number of distinct test images.
        val: How many of them are in val of a run that was ranked.
        train: How many of them are in train of a run that was ranked.
        configurations: Number of configurations that were ranked.
    """

    tested: int
    val: int
    train: int
    configurations: int

    @property
    def differs(self) -> bool:
        """Whether the runs were split differently."""
        return bool(self.val or self.train)


def find_exposure(
    sweep: Path, winners: Sequence[Trial], ranked: Sequence[Trial], configurations: int
) -> Exposure:
    """Counts the best configuration's test images that other runs used, from their `split.csv`.

    Args:
        sweep: Folder of the sweep.
        winners: Finished runs of the best configuration.
        ranked: Finished runs of all configurations.
        configurations: Number of configurations with finished runs.
    """
    subsets = {trial.name: read_subsets(sweep / trial.name) for trial in ranked}
    tested = set[str]().union(*(subsets[trial.name]["test"] for trial in winners))
    val, train = (
        sum(any(image in own[subset] for own in subsets.values()) for image in tested)
        for subset in ("val", "train")
    )
    return Exposure(len(tested), val, train, configurations)


def read_subsets(run: Path) -> dict[str, set[str]]:
    """Images of train, val and test by content and path, from a run's `split.csv`."""
    subsets: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    with (run / "split.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["subset"] in subsets:
                subsets[row["subset"]].add(f"{row['sha256']} {row['path']}")
    return subsets


def exposure_text(exposure: Exposure | None) -> str:
    """The exposure in one sentence; empty if all runs have the same split."""
    if exposure is None or not exposure.differs:
        return ""
    if exposure.configurations < 2:
        return (
            f"the runs have different splits: of their {exposure.tested} distinct test images, "
            f"{exposure.val} are in val and {exposure.train} in train of another run; with a "
            "single configuration, nothing was selected with them"
        )
    n = f"the best configuration's {exposure.tested} distinct test images"
    if not exposure.val:
        return (
            f"the runs have different splits: of {n}, none is in val of another run, but "
            f"{exposure.train} are in train of one"
        )
    return (
        f"the ranking used test images: of {n}, {exposure.val} are in val of another run, on "
        f"which configurations were ranked, and {exposure.train} are in train of one; the test "
        "metrics of the best configuration may be too high"
    )
