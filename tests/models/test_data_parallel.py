"""Two processes that divide a batch compute what a single process computes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from bcd.models.data_parallel import (
    BatchShard,
    GlobalBatchNorm,
    GlobalDropout,
    convert_batchnorm,
    scale_loss,
)

WORLD = 2


def small_network(momentum: float | None) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum)
    layers = [nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), GlobalDropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(4 * 36, 3))


def batch(rows: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows)
    return torch.rand(rows, 3, 8, 8, generator=draw), torch.arange(rows) % 3


def loss_of(weighted: bool) -> nn.CrossEntropyLoss:
    return nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]) if weighted else None)


def state(network: nn.Module) -> dict[str, Tensor]:
    grads = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return {**{f"grad of {n}": g for n, g in grads.items()}, **dict(network.named_buffers())}


def work(rank: int, folder: str, rows: int, weighted: bool, momentum: float | None) -> None:
    """One of two processes: a step on its rows of the batch."""
    torch.set_num_threads(1)
    group = f"file://{folder}/group"
    torch.distributed.init_process_group("gloo", init_method=group, rank=rank, world_size=WORLD)
    network, shard = small_network(momentum), BatchShard(rank, WORLD, rows)
    convert_batchnorm(network)
    for module in network.modules():
        if isinstance(module, GlobalBatchNorm | GlobalDropout):
            module.shard = shard
    x, labels = (shard.of(whole) for whole in batch(rows))
    ddp = nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)
    torch.manual_seed(1)
    loss = loss_of(weighted)
    weight = loss.weight[labels].sum() if loss.weight is not None else len(labels)
    torch.autograd.backward(scale_loss(loss(ddp(x), labels), weight, shard))
    torch.save(state(network), f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("rows", "weighted", "momentum"), [(5, True, 0.1), (1, False, 0.1), (7, False, None)]
)
def test_gradients_and_statistics_are_those_of_the_whole_batch(
    rows: int, weighted: bool, momentum: float | None, tmp_path: Path
) -> None:
    arguments = (str(tmp_path), rows, weighted, momentum)
    start_processes(work, arguments, WORLD, start_method="fork")  # type: ignore[no-untyped-call]
    network = small_network(momentum)
    x, labels = batch(rows)
    torch.manual_seed(1)
    loss_of(weighted)(network(x), labels).backward()
    expected = state(network)
    assert any(value.norm() > 1e-3 for name, value in expected.items() if "grad" in name)
    for rank in range(WORLD):
        found = torch.load(tmp_path / str(rank))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-5, msg=name)


def test_processes_together_have_every_row_once() -> None:
    whole = torch.arange(7)
    parts = [BatchShard(rank, 3, 7).of(whole).tolist() for rank in range(3)]
    assert sorted(itertools.chain(*parts)) == whole.tolist()
    assert [BatchShard(rank, 3, 7).count for rank in range(3)] == [len(part) for part in parts]
    assert BatchShard(2, 3, 2).count == 0 and len(BatchShard(2, 3, 2).of(whole[:2])) == 1
