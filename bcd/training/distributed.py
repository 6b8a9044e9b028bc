"""Training in several processes, after which the first one alone evaluates.

Lightning's launcher starts the processes. `DistributedBatches` connects them, `distributed` ends
them when training is done or when one of them fails.
"""

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
from bcd.models.data_parallel import CONVERTIBLE_NORMS
from bcd.models.network import SmearNetwork
from bcd.training.divergence import DivergedError

# Folder in which the processes of one machine find each other.
_RENDEZVOUS = "BCD_RENDEZVOUS"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

# Environment variables for the processes that are started. They are restored afterwards, or
# Lightning would assume the next time that a cluster started this process.
_ENVIRONMENT = (
    *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"),
    *(_RENDEZVOUS, *_INTERFACES),
)


class DistributedBatches(DDPStrategy):
    """Distributed data parallel training with the result of a single process.

    Each global batch is divided among the processes, and their losses are weighted by their
    number of images (`bcd.models.data_parallel`).
    """

    def __init__(self, **kwargs: Any) -> None:
        # Buffers are equal everywhere. Broadcasting them would require that all processes have the
        # same number of val batches.
        super().__init__(**{"broadcast_buffers": False, **kwargs})

    def setup_distributed(self) -> None:
        """Connects the processes; those of one machine over its loopback interface alone."""
        rendezvous = os.environ.get(_RENDEZVOUS)
        if rendezvous is not None:
            # torch's default listens on all interfaces and resolves addresses by a name server.
            self.set_world_ranks()
            self._process_group_backend = self._get_process_group_backend()
            torch.distributed.init_process_group(
                self._process_group_backend,
                init_method=(Path(rendezvous) / "store").as_uri(),
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=self._timeout,
                device_id=None if self.root_device.type == "cpu" else self.root_device,
            )
        super().setup_distributed()  # does not connect them again


class RestoreRandomState(pl.Callback):
    """Starts training from the random state at the time this callback was made.

    Lightning seeds anew where there are several processes, which would then draw other random
    numbers than a single process.
    """

    def __init__(self) -> None:
        self._state = torch.get_rng_state()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores it."""
        torch.set_rng_state(self._state)


def check_processes(
    cfg: TrainConfig, trainer: pl.Trainer, network: SmearNetwork, tested: bool, val: int
) -> None:
    """Refuses what several processes cannot do.

    Args:
        cfg: The configuration.
        trainer: Knows the number of processes.
        network: The network to train.
        tested: False for a trial of a multirun.
        val: Number of images of the val set.

    Raises:
        ConfigError: The configuration asks for it.
    """
    world = trainer.world_size
    if world == 1:
        return
    key, single = f"trainer.devices={trainer.num_devices}", "set trainer=default trainer.devices=1"
    if cfg.head.fitted:
        raise ConfigError(f"{key}: head={cfg.head.kind} is fitted in one process; {single}")
    if not isinstance(trainer.strategy, DistributedBatches):
        raise ConfigError(f"{key}: several processes require trainer=ddp {key}")
    if not tested:
        raise ConfigError(f"{key}: a trial of a multirun is one process; {single}")
    if cfg.lr_find:
        raise ConfigError(f"{key}: lr_find=true runs in one process; {single}")
    if cfg.data.batch_size % world:
        raise ConfigError(
            f"data.batch_size={cfg.data.batch_size}: {world} processes divide each batch; "
            f"give a multiple of {world}"
        )
    norms = [m for m in network.trunk.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    convertible = all(type(norm) in CONVERTIBLE_NORMS for norm in norms)
    if cfg.model.batchnorm == "trained" and not convertible:
        raise ConfigError(
            f"{key}: model.batchnorm=trained requires torch's BatchNorm, which {cfg.model.title} "
            f"does not use; set model.batchnorm=frozen, or {single}"
        )
    if val < world:
        raise ConfigError(f"{key}: val has {val} images, fewer than there are processes")


@contextlib.contextmanager
def distributed(trainer: pl.Trainer) -> Iterator[None]:
    """Within the block the processes train; afterwards the first one continues alone.

    If one process fails, all of them end. Does nothing in a single process.

    Raises:
        BcdError: Another process failed; it has printed why.
        SystemExit: On a process other than the first, when training diverged or was interrupted;
            the first one reports it.
    """
    if not isinstance(trainer.strategy, DistributedBatches):
        yield
        return
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    rendezvous = _rendezvous_on_loopback(trainer)
    try:
        yield
    except BaseException as error:
        if not trainer.is_global_zero:
            if isinstance(error, DivergedError):
                sys.exit(error.status)  # the first process reports it
            if isinstance(error, BcdError) and error.status == 130:
                sys.exit(130)
            raise
        status = _end(_started_processes(trainer))
        if isinstance(error, BcdError) or not isinstance(error, Exception) or not status:
            raise
        raise BcdError("another process failed; its error is printed above", status) from error
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if rendezvous is not None:
            shutil.rmtree(rendezvous, ignore_errors=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for process in _started_processes(trainer):
        process.wait()


def _rendezvous_on_loopback(trainer: pl.Trainer) -> str | None:
    """Has the processes communicate within this machine; returns the folder where they meet.

    None where a cluster starts the processes, which knows its network, or where this process was
    started with the folder already.
    """
    strategy = trainer.strategy
    assert isinstance(strategy, DistributedBatches)
    cluster = strategy.cluster_environment
    if not isinstance(cluster, LightningEnvironment) or cluster.creates_processes_externally:
        return None
    loopback = next((n for _, n in socket.if_nameindex() if n in ("lo", "lo0")), None)
    if strategy.num_nodes > 1 or loopback is None:
        return None
    os.environ.update(dict.fromkeys(_INTERFACES, loopback))
    os.environ["MASTER_PORT"] = "0"  # unused; Lightning would search for one on all interfaces
    os.environ[_RENDEZVOUS] = tempfile.mkdtemp(prefix="bcd-")
    return os.environ[_RENDEZVOUS]


def _started_processes(trainer: pl.Trainer) -> list[Popen[bytes]]:
    """The processes that this one started, as its launcher stores them."""
    return getattr(trainer.strategy.launcher, "procs", [])


def _end(processes: list[Popen[bytes]]) -> int:
    """Ends processes; returns the status of one that failed by itself, 0 if none did."""
    status = 0
    waited = [*processes]
    processes.clear()  # or Lightning, which monitors this list, kills this process as well
    for process in waited:
        try:
            status = status or process.wait(1)
        except TimeoutExpired:
            process.kill()
    return status
