"""Configurations of a sweep: trials that differ only in seeds and fold, grouped together."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bcd.sweeps.trials import DONE, Trial

# Keys that are repeated to measure the variation between runs, not searched over.
REPEATED = ("seed", "split.seed", "split.fold")


@dataclass(frozen=True)
class Configuration:
    """A configuration and its trials.

    Attributes:
        overrides: Overrides that its trials have in common, without `REPEATED`.
        label: Overrides in which the configurations of the sweep differ; keys without their group
            if that is unambiguous.
        trials: All of them.
    """

    overrides: tuple[str, ...]
    label: str
    trials: tuple[Trial, ...]

    @property
    def done(self) -> list[Trial]:
        """The trials that finished."""
        return [trial for trial in self.trials if trial.status == DONE]

    @property
    def seconds(self) -> float:
        """Total duration of its trials."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def reason(self) -> str:
        """Why trials did not finish, each reason once."""
        unfinished = [trial for trial in self.trials if trial.status != DONE]
        return "; ".join(dict.fromkeys(f"{t.name}: {t.reason or t.status}" for t in unfinished))


def mean_unsafe(configuration: Configuration, name: str) -> float | None:
    """Mean share of unsafe answers on val over the finished trials; None if it is unknown.

    Args:
        configuration: With or without finished trials.
        name: One of `UNSAFE_SHARES`.
    """
    known = [x for t in configuration.done if (x := t.unsafe.get(name)) is not None]
    return statistics.fmean(known) if known else None


def key_of(override: str) -> str:
    """The key of `key=value`, without the signs that add or delete it."""
    return override.partition("=")[0].lstrip("+~")


def group_trials(trials: Sequence[Trial]) -> list[Configuration]:
    """Groups trials that differ only in seeds and fold, in the order of their first trials."""
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
    """Shortens an override: numbers to four digits, as searches give sixteen."""
    key, equals, value = override.partition("=")
    end = key.rpartition(".")[2]
    key = end if ends[end] == 1 else key
    try:
        return f"{key}={min(value, f'{float(value):.4g}', key=len)}"
    except ValueError:
        return f"{key}{equals}{value}"
