"""Data parallel training whose result is that of a single process.

The batch of all processes together is the global batch. Each process works on its own rows of it.
Dropout, BatchNorm and the mean of the loss are computed so that the processes together do what one
process would do with the global batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class BatchShard:
    """The rows of the global batch that a process works on: every `world`-th from `rank` on.

    All processes must make every step. Where a batch has fewer rows than there are processes, the
    processes without one work on a placeholder row, which counts for nothing.

    Attributes:
        rank: Rank of the process.
        world: Number of processes.
        rows: Number of rows of the global batch.
    """

    rank: int
    world: int
    rows: int

    @property
    def count(self) -> int:
        """Number of rows of this process; 0 where it has a placeholder."""
        return len(range(self.rank, self.rows, self.world))

    def of(self, whole: Tensor) -> Tensor:
        """This process's rows of a tensor (rows, ...); the first row as a placeholder."""
        return whole[self.rank :: self.world] if self.count else whole[:1]


class GlobalDropout(nn.Dropout):
    """Dropout of vectors that drops from each row what it would in a single process.

    All processes draw the mask of the global batch from the same random state and take their rows.

    Attributes:
        shard: Of the current step; None in a single process.
    """

    shard: BatchShard | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, features) to the same shape."""
        if self.shard is None or not self.training or not self.p:
            return super().forward(x)
        whole = torch.ones(self.shard.rows, *x.shape[1:], dtype=x.dtype, device=x.device)
        return x * self.shard.of(functional.dropout(whole, self.p))


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose statistics in training are exactly those of the global batch.

    torch's SyncBatchNorm requires a GPU and would count placeholder rows.

    Args:
        norm: The layer whose parameters and buffers it takes over.

    Attributes:
        shard: Of the current step.
    """

    shard: BatchShard

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        affine, tracks = norm.affine, norm.track_running_stats
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine, tracks)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.training = norm.training

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, C, ...) to the same shape."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        local = x[: self.shard.count]
        dims, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        count = x[0, 0].numel() * self.shard.rows
        mean = sum_over_processes(local.sum(dims)) / count
        variance = sum_over_processes((local - mean.view(shape)).square().sum(dims)) / count
        self._update_statistics(mean.detach(), variance.detach() * count / max(count - 1, 1))
        x = (x - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(input.dtype)

    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        new = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, new)
        self.running_var.lerp_(variance, new)


# Subclasses may do more; timm's, for example, include the ReLU.
CONVERTIBLE_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, GlobalBatchNorm)


def convert_batchnorm(module: nn.Module) -> None:
    """Replaces each of torch's BatchNorm layers inside a module by a `GlobalBatchNorm`."""
    for name, child in module.named_children():
        if type(child) in CONVERTIBLE_NORMS:
            assert isinstance(child, nn.modules.batchnorm._BatchNorm)
            setattr(module, name, GlobalBatchNorm(child))
        else:
            convert_batchnorm(child)


def sum_over_processes(local: Tensor) -> Tensor:
    """The sum of a tensor over all processes; gradients flow back to each of them."""
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(local)  # type: ignore[no-untyped-call]
    return total


def scale_loss(loss: Tensor, weight: Tensor | float, shard: BatchShard) -> Tensor:
    """Scales a process's mean loss so that the mean over processes is that of the global batch.

    Args:
        loss: Mean over the process's rows.
        weight: Sum of the weights of these rows in that mean.
        shard: Of the current step.
    """
    local = torch.as_tensor(weight, dtype=loss.dtype, device=loss.device) * bool(shard.count)
    total = local.detach().clone()
    torch.distributed.all_reduce(total)
    return loss * (local * shard.world / total)
