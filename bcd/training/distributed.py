"""Several processes that train together, and leave the test to the first of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from bcd.config.training import TrainConfig
from bcd.errors import BcdError, ConfigError
from bcd.models.data_parallel import PLAIN_NORMS
from bcd.models.network import SmearNetwork
from bcd.training.divergence import DivergedError

# Folder in which the processes of one machine find each other.
_MEETING = "BCD_MEETING"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

# What is set for the processes that are started; the next time Lightning would think that a cluster
# started them.
_SET = (
    *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"),
    *(_MEETING, *_INTERFACES),
)


class SharedBatches(DDPStrategy):
    """Distributed data parallel training in which all processes together do what one would do.

    A batch is shared out to the processes; losses are weighed by what each has of it.
    """

    def __init__(self, **kwargs: Any) -> None:
        # Buffers are the same everywhere; to send them would want as many val batches of everyone.
        super().__init__(**{"broadcast_buffers": False, **kwargs})

    def setup_distributed(self) -> None:
        """Connects the processes; those of one machine over its loopback interface alone."""
        meeting = os.environ.get(_MEETING)
        if meeting is not None:
            # torch's own way listens on all interfaces and asks a name server for the addresses.
            self.set_world_ranks()
            self._process_group_backend = self._get_process_group_backend()
            torch.distributed.init_process_group(
                self._process_group_backend,
                init_method=(Path(meeting) / "store").as_uri(),
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=self._timeout,
                device_id=None if self.root_device.type == "cpu" else self.root_device,
            )
        super().setup_distributed()  # finds them connected


class SameChance(pl.Callback):
    """Starts training from the random state that there was when this was made.

    Lightning seeds anew where there are several processes; these would draw otherwise than one.
    """

    def __init__(self) -> None:
        self._state = torch.get_rng_state()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores it."""
        torch.set_rng_state(self._state)


def check_processes(
    cfg: TrainConfig, trainer: pl.Trainer, network: SmearNetwork, tested: bool, val: int
) -> None:
    """Refuses what several processes cannot do together.

    Args:
        cfg: The configuration.
        trainer: Knows how many processes there are.
        network: That is to be trained.
        tested: False for a trial of a multirun.
        val: Number of images of val.

    Raises:
        ConfigError: One of them was asked for.
    """
    world = trainer.world_size
    if world == 1:
        return
    said, one = f"trainer.devices={trainer.num_devices}", "say trainer=default trainer.devices=1"
    if cfg.head.fitted:
        raise ConfigError(f"{said}: head={cfg.head.kind} is fitted in one process; {one}")
    if not isinstance(trainer.strategy, SharedBatches):
        raise ConfigError(f"{said}: several processes want trainer=ddp {said}")
    if not tested:
        raise ConfigError(f"{said}: a trial of a multirun is one process; {one}")
    if cfg.lr_find:
        raise ConfigError(f"{said}: lr_find=true looks in one process; {one}")
    if cfg.data.batch_size % world:
        raise ConfigError(
            f"data.batch_size={cfg.data.batch_size}: {world} processes share it out; "
            f"say a multiple of {world}"
        )
    norms = [m for m in network.trunk.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if cfg.model.batchnorm == "trained" and any(type(norm) not in PLAIN_NORMS for norm in norms):
        raise ConfigError(
            f"{said}: model.batchnorm=trained works for torch's BatchNorm, which {cfg.model.title} "
            f"has not; say model.batchnorm=frozen, or {one}"
        )
    if val < world:
        raise ConfigError(f"{said}: val has {val} images, fewer than there are processes")


@contextlib.contextmanager
def together(trainer: pl.Trainer) -> Iterator[None]:
    """While it lasts the processes train; it ends when the others have been let go.

    Where one fails, none goes on.

    Raises:
        BcdError: Another process failed, which has said why.
        SystemExit: On another process than the first, which has to say that it was interrupted or
            diverged.
    """
    if not isinstance(trainer.strategy, SharedBatches):
        yield
        return
    before = {name: os.environ.get(name) for name in _SET}
    meeting = _meet_on_loopback(trainer)
    try:
        yield
    except BaseException as error:
        if not trainer.is_global_zero:
            if isinstance(error, DivergedError):
                sys.exit(error.status)  # the first process says it, as an interruption
            if isinstance(error, BcdError) and error.status == 130:
                sys.exit(130)
            raise
        status = _end(_others(trainer))
        if isinstance(error, BcdError) or not isinstance(error, Exception) or not status:
            raise
        raise BcdError("another process failed; its line stands above", status) from error
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if meeting is not None:
            shutil.rmtree(meeting, ignore_errors=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for process in _others(trainer):
        process.wait()


def _meet_on_loopback(trainer: pl.Trainer) -> str | None:
    """Has the processes that this one is to start talk within the machine; returns their folder.

    None where a cluster starts them, which knows its network, or where they are told already.
    """
    strategy = trainer.strategy
    assert isinstance(strategy, SharedBatches)
    cluster = strategy.cluster_environment
    if not isinstance(cluster, LightningEnvironment) or cluster.creates_processes_externally:
        return None
    loopback = next((n for _, n in socket.if_nameindex() if n in ("lo", "lo0")), None)
    if strategy.num_nodes > 1 or loopback is None:
        return None
    os.environ.update(dict.fromkeys(_INTERFACES, loopback))
    os.environ["MASTER_PORT"] = "0"  # unused; Lightning would look for a free one on all interfaces
    os.environ[_MEETING] = tempfile.mkdtemp(prefix="bcd-")
    return os.environ[_MEETING]


def _others(trainer: pl.Trainer) -> list[Popen[bytes]]:
    """The processes that this one started, as its launcher keeps them."""
    return getattr(trainer.strategy.launcher, "procs", [])


def _end(processes: list[Popen[bytes]]) -> int:
    """Ends processes; returns the status of one that had failed by itself, 0 if none had."""
    status = 0
    waited = [*processes]
    processes.clear()  # or Lightning, which watches this list, kills this process over one of them
    for process in waited:
        try:
            status = status or process.wait(1)
        except TimeoutExpired:
            process.kill()
    return status
