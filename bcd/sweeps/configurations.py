"""Configurations: trials that differ in nothing but seeds and fold, taken together and compared."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcd.evaluation.intervals import Interval, confusion_intervals
from bcd.sweeps.ranking import Against, Floats, Numbers, against_best, best_of, numbered
from bcd.sweeps.trials import DONE, Trial

# Keys of what is repeated to see how much it matters, not to be chosen.
REPEATED = ("seed", "split.seed", "split.fold")
BEST, SAME, WORSE = "best", "not distinguishable from the best", "worse than the best"
APART = "not comparable: no image in common with the best"
NOTHING = "no trial finished"


@dataclass(frozen=True)
class Configuration:
    """A configuration and its trials.

    Attributes:
        overrides: Of its trials, without those that repeat it.
        label: Those in which configurations of the sweep differ, as text; keys without their group
            where that tells them apart.
        trials: All of them.
    """

    overrides: tuple[str, ...]
    label: str
    trials: tuple[Trial, ...]

    @property
    def done(self) -> list[Trial]:
        """The trials that came to an end."""
        return [trial for trial in self.trials if trial.status == DONE]

    @property
    def seconds(self) -> float:
        """That all of its trials took."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def reason(self) -> str:
        """Why trials failed, each reason once."""
        reasons = dict.fromkeys(f"{t.name}: {t.reason or t.status}" for t in self._undone)
        return "; ".join(reasons)

    @property
    def _undone(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status != DONE]


@dataclass(frozen=True)
class Row:
    """A configuration's place on the leaderboard.

    Attributes:
        configuration: The configuration.
        mean: Of the accuracy on val over its runs; NaN where none finished.
        sd: Standard deviation likewise; None where there is one run.
        pooled: Share of right answers of all runs.
        interval: Of that share, 95 %, over images or clusters.
        n: Answers.
        against: How it compares with the best; None for the best and what cannot be compared.
        verdict: In plain words.
    """

    configuration: Configuration
    mean: float
    sd: float | None
    pooled: float
    interval: Interval | None
    n: int
    against: Against | None
    verdict: str


def key_of(override: str) -> str:
    """The key of `key=value`, without the signs that add or delete."""
    return override.partition("=")[0].lstrip("+~")


def fold(trials: Sequence[Trial]) -> list[Configuration]:
    """Puts trials together that differ in seeds and fold alone, in the order of the first ones."""
    found: dict[tuple[str, ...], list[Trial]] = {}
    for trial in trials:
        own = tuple(o for o in trial.overrides if key_of(o) not in REPEATED)
        found.setdefault(own, []).append(trial)
    common = set.intersection(*(set(own) for own in found)) if found else set()
    keys = {key_of(o) for own in found for o in own if o not in common}
    ends = Counter(key.rpartition(".")[2] for key in keys)
    configurations = []
    for own, members in found.items():
        label = " ".join(_short(o, ends) for o in own if o not in common)
        plain = "as given" if len(found) == 1 else "default"
        configurations.append(Configuration(own, label or plain, tuple(members)))
    return configurations


def _short(override: str, ends: Mapping[str, int]) -> str:
    """An override with at most four digits of a number, as searches give sixteen."""
    key, equals, value = override.partition("=")
    end = key.rpartition(".")[2]
    key = end if ends[end] == 1 else key
    try:
        return f"{key}={min(value, f'{float(value):.4g}', key=len)}"
    except ValueError:
        return f"{key}{equals}{value}"


@dataclass(frozen=True)
class _Answers:
    """Who was right: as `bcd.sweeps.ranking` takes it."""

    right: Floats
    clusters: Numbers
    runs: Numbers


def rank(sweep: Path, configurations: Sequence[Configuration]) -> list[Row]:
    """Ranks configurations on val and compares each with the best, on images of the same runs.

    Configurations that lack runs which others have stand behind those that lack none, and those
    without any at the end.

    Args:
        sweep: Folder of the sweep.
        configurations: Of its trials.
    """
    known = [s for s in configurations if s.done]
    if not known:
        return [_nothing(s) for s in configurations]
    answers = _read_answers(sweep, known)
    most = max(len(s.done) for s in known)
    whole = [i for i, s in enumerate(known) if len(s.done) == most]
    ties = np.array([statistics.fmean(t.loss for t in s.done) for s in known])
    ties = np.nan_to_num(ties, nan=np.inf)
    best = whole[best_of(answers.right[whole], ties[whole])]
    against = against_best(answers.right, best, answers.clusters, answers.runs)
    rows = [_row(s, answers, i, against[i], i == best) for i, s in enumerate(known)]
    order = sorted(
        range(len(known)), key=lambda i: (i != best, i not in whole, -rows[i].pooled, ties[i])
    )
    return [rows[i] for i in order] + [_nothing(s) for s in configurations if not s.done]


def _nothing(configuration: Configuration) -> Row:
    return Row(configuration, float("nan"), None, float("nan"), None, 0, None, NOTHING)


def _row(
    configuration: Configuration, answers: _Answers, place: int, against: Against | None, best: bool
) -> Row:
    right = answers.right[place]
    asked = ~np.isnan(right)
    mean, sd = spread([trial.accuracy for trial in configuration.done])
    pooled, interval = share_of_right(right[asked], answers.clusters[asked])
    if best:
        verdict = BEST
    elif against is None:
        verdict = APART
    else:
        verdict = WORSE if against.p < 0.05 else SAME
    n = int(asked.sum())
    return Row(configuration, mean, sd, pooled, interval, n, against, verdict)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation; the latter None of one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def share_of_right(right: Floats, clusters: Numbers) -> tuple[float, Interval]:
    """Share of right answers and its 95 % interval.

    Args:
        right: (n,), 1 or 0.
        clusters: (n,), the image or group each is about.
    """
    truth, said = np.ones(len(right), np.int64), right.astype(np.int64)
    found = confusion_intervals(truth, said, ("wrong", "right"), None, clusters)
    low, high = found["accuracy"]
    return float(right.mean()), (low, high)


def read_right(folder: Path, file: str) -> dict[str, tuple[str, float]]:
    """By an image's path: its cluster (itself where it has none), and whether a run was right."""
    with (folder / "split.csv").open(newline="", encoding="utf-8") as stream:
        cluster = {row["path"]: row["cluster"] for row in csv.DictReader(stream)}
    with (folder / file).open(newline="", encoding="utf-8") as stream:
        return {
            row["path"]: (
                f"in {cluster[row['path']]}" if cluster[row["path"]] else row["path"],
                float(row["label"] == row["prediction"]),
            )
            for row in csv.DictReader(stream)
        }


def _read_answers(sweep: Path, configurations: Sequence[Configuration]) -> _Answers:
    from bcd.training.run import VAL_PREDICTIONS

    told: list[dict[tuple[tuple[int, ...], str], float]] = []
    clusters: dict[tuple[tuple[int, ...], str], str] = {}
    for configuration in configurations:
        own = {}
        for trial in configuration.done:
            for path, (group, was) in read_right(sweep / trial.name, VAL_PREDICTIONS).items():
                own[trial.run, path] = was
                clusters[trial.run, path] = group
        told.append(own)
    asked = list(clusters)
    right = np.array([[own.get(cell, np.nan) for cell in asked] for own in told])
    runs = numbered([str(run) for run, _ in asked])
    return _Answers(right, numbered(list(clusters.values())), runs)
