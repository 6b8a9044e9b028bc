"""Sharing a step's batch out to several processes, so that together they do what one would do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Share:
    """Which rows of a step's batch a process works on: every `world`-th from row `rank` on.

    Where a batch has fewer rows than there are processes, those left over work on a stand-in that
    counts for nothing, because all have to take each step.

    Attributes:
        rank: Number of the process.
        world: Number of processes.
        rows: Of the batch of all processes together.
    """

    rank: int
    world: int
    rows: int

    @property
    def count(self) -> int:
        """How many rows the process has; 0 where it has a stand-in."""
        return len(range(self.rank, self.rows, self.world))

    def of(self, whole: Tensor) -> Tensor:
        """The process's rows of a tensor (rows, ...); for a stand-in any row."""
        return whole[self.rank :: self.world] if self.count else whole[:1]


class SharedDropout(nn.Dropout):
    """Dropout of vectors that leaves out of a row what it would in one process.

    All processes draw for the whole batch, from random states that are alike, and take their rows.

    Attributes:
        share: Of the step; None in one process.
    """

    share: Share | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, features) to the same shape."""
        if self.share is None or not self.training or not self.p:
            return super().forward(x)
        whole = torch.ones(self.share.rows, *x.shape[1:], dtype=x.dtype, device=x.device)
        return x * self.share.of(functional.dropout(whole, self.p))


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose statistics in training are those of the whole batch, exactly.

    torch's SyncBatchNorm wants a GPU, and counts a stand-in.

    Args:
        norm: Whose parameters and buffers it takes over.

    Attributes:
        share: Of the step.
    """

    share: Share

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
        mine = x[: self.share.count]
        dims, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        count = x[0, 0].numel() * self.share.rows
        mean = summed(mine.sum(dims)) / count
        variance = summed((mine - mean.view(shape)).square().sum(dims)) / count
        self._remember(mean.detach(), variance.detach() * count / max(count - 1, 1))
        x = (x - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        new = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, new)
        self.running_var.lerp_(variance, new)


def share_norms(module: nn.Module) -> None:
    """Puts a `SharedBatchNorm` in the place of each of torch's BatchNorms inside a module."""
    for name, child in module.named_children():
        if type(child) in PLAIN_NORMS:
            assert isinstance(child, nn.modules.batchnorm._BatchNorm)
            setattr(module, name, SharedBatchNorm(child))
        else:
            share_norms(child)


# Classes made from these may do more; timm's does the ReLU too.
PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SharedBatchNorm)


def summed(mine: Tensor) -> Tensor:
    """The sum of a tensor over all processes; gradients go back to each of them."""
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(mine)  # type: ignore[no-untyped-call]
    return total


def weighed(loss: Tensor, weight: Tensor | float, share: Share) -> Tensor:
    """A process's mean loss, weighed so that the mean over processes is that of the whole batch.

    Args:
        loss: Mean over the process's rows.
        weight: Sum of the weights of these rows in that mean.
        share: Of the step.
    """
    mine = torch.as_tensor(weight, dtype=loss.dtype, device=loss.device) * bool(share.count)
    total = mine.detach().clone()
    torch.distributed.all_reduce(total)
    return loss * (mine * share.world / total)
