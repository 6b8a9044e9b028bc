"""Which of several processes this one is, each of which predicts a share of the images."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TypeVar

from bcd.console import say
from bcd.errors import ConfigError

T = TypeVar("T")

AUTO = "auto"
_TORCHRUN = ("RANK", "WORLD_SIZE")
_BY_TORCHRUN = " and ".join(_TORCHRUN)
_SLURM = "SLURM_ARRAY_TASK_"
_SRUN = ("SLURM_PROCID", "SLURM_NTASKS")
FORMS = "give <i>/<n> with i from 1 to n, auto or null"
_INSTEAD = "give shard=<i>/<n>, or shard=null for all images"


@dataclass(frozen=True)
class Shard:
    """A share of the images: every `count`-th.

    Attributes:
        index: From 0 to `count` - 1.
        count: Number of shards.
        source: The environment variables that say so, in words; empty if the setting does.
    """

    index: int = 0
    count: int = 1
    source: str = ""

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    @property
    def suffix(self) -> str:
        """What names of files of this shard have; empty if there is only one."""
        return "" if self.count == 1 else f"-{self.index + 1:04d}-of-{self.count:04d}"

    def of(self, items: Iterator[T]) -> Iterator[T]:
        """Its items out of all."""
        return itertools.islice(items, self.index, None, self.count)

    def share(self, total: int | None) -> int | None:
        """How many of all images are of this shard."""
        return None if total is None else len(range(self.index, total, self.count))


def find_shard(setting: str | int | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """Returns the shard that a setting, or with `auto` the environment, asks for.

    Args:
        setting: `auto`, `<i>/<n>` with i from 1 to n, or None for all images.
        environment: Variables of torchrun (RANK, WORLD_SIZE), of an array job of Slurm, or of
            several tasks of `srun`.

    Raises:
        ConfigError: The setting is something else, or the environment does not say it clearly.
    """
    if setting is None:
        return Shard()
    if setting != AUTO:
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(setting))
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard={setting}: {FORMS}")
        return Shard(int(match[1]) - 1, int(match[2]))
    from_torchrun = any(name in environment for name in _TORCHRUN)
    from_array = f"{_SLURM}ID" in environment
    # Slurm sets this for a single task, too; and torchrun may run in each task.
    from_srun = environment.get(_SRUN[1], "1") != "1" and not from_torchrun
    if from_array and (from_torchrun or from_srun):
        other = " and ".join(name for name in (*_TORCHRUN, _SRUN[1]) if name in environment)
        raise ConfigError(f"shard=auto: {other} and {_SLURM}ID are set: {_INSTEAD}")
    if from_torchrun or from_srun:
        names = _TORCHRUN if from_torchrun else _SRUN
        rank, world = (_number(name, environment) for name in names)
        return _shard(rank, world, " and ".join(names))
    if from_array:
        return _of_array(environment)
    return Shard()


def tell_shard(setting: str | int | None, shard: Shard) -> None:
    """Prints which share it is, if it is not simply all images."""
    if shard.count > 1 or shard.source:
        say(f"shard {shard}" + f" (by {shard.source})" * bool(shard.source))
    elif setting == AUTO:
        say("shard=auto: nothing in the environment says which: all images")


def take_own_gpu(shard: Shard, environment: MutableMapping[str, str] = os.environ) -> None:
    """Leaves each of the processes of torchrun on a machine one GPU; before CUDA is used.

    Args:
        shard: Of this process.
        environment: Where CUDA looks for `CUDA_VISIBLE_DEVICES`.
    """
    local = environment.get("LOCAL_RANK", "")
    if shard.source != _BY_TORCHRUN or not local.isdigit():
        return
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    every = visible.split(",") if visible else []
    if not every or int(local) < len(every):
        environment["CUDA_VISIBLE_DEVICES"] = every[int(local)] if every else local


def _of_array(environment: Mapping[str, str]) -> Shard:
    own, least, most, count = (
        _number(f"{_SLURM}{part}", environment) for part in ("ID", "MIN", "MAX", "COUNT")
    )
    step = _number(f"{_SLURM}STEP", environment) if f"{_SLURM}STEP" in environment else 1
    if step < 1 or len(range(least, most + 1, step)) != count or (own - least) % step:
        raise ConfigError(
            f"shard=auto: the job array has gaps ({_SLURM}MIN={least}, MAX={most}, COUNT={count}): "
            f"{_INSTEAD}"
        )
    return _shard((own - least) // step, count, f"{_SLURM}ID, _MIN, _MAX and _COUNT")


def _shard(index: int, count: int, source: str) -> Shard:
    if not 0 <= index < count:
        raise ConfigError(f"shard=auto: {source} say {index + 1} of {count}: {_INSTEAD}")
    return Shard(index, count, source)


def _number(name: str, environment: Mapping[str, str]) -> int:
    if name not in environment:
        raise ConfigError(f"shard=auto: {name} is not set in the environment: {_INSTEAD}")
    text = environment[name]
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ConfigError(f"shard=auto: {name}={text} in the environment: {_INSTEAD}")
    return int(text)
