"""Fine-tuning: learning rates by depth, a schedule with warm-up, and mixing of training samples."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from bcd.config.check import FILLED_IN, instantiate
from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.errors import ConfigError
from bcd.models.network import SmearNetwork


def make_optimizers(
    network: SmearNetwork,
    model: ModelConfig,
    optimizer: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    trainer: pl.Trainer,
) -> Any:
    """Makes the optimizer of what is trained, and its scheduler, as Lightning expects them.

    The scheduler steps after every batch; `ReduceLROnPlateau` steps after every validation, by its
    loss.

    Args:
        network: Its head and trained blocks are optimized.
        model: The `model` group.
        optimizer: The `optimizer` group.
        scheduler: The `scheduler` group; empty for a constant rate.
        trainer: Gives the number of steps.

    Raises:
        ConfigError: The optimizer has no learning rate.
    """
    made = instantiate(optimizer, params=parameter_groups(network, model, learning_rate(optimizer)))
    if not scheduler:
        return made
    steps = int(trainer.estimated_stepping_batches)
    filled: dict[str, Any] = {
        name: steps for name in FILLED_IN if scheduler.get(name, steps) is None
    }
    if "max_lr" in scheduler:  # a single value would give all groups the same rate
        highest = parameter_groups(network, model, scheduler["max_lr"])
        filled["max_lr"] = [group["lr"] for group in highest]
    schedule = instantiate({**scheduler, **filled}, optimizer=made)
    when: dict[str, Any] = {"interval": "step"}
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        epochs = trainer.check_val_every_n_epoch or 1
        when = {"interval": "epoch", "frequency": epochs, "monitor": "val/loss"}
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, **when}}


def learning_rate(optimizer: Mapping[str, Any]) -> float:
    """The learning rate of the `optimizer` group, or the default of its class.

    Raises:
        ConfigError: There is neither.
    """
    from hydra.utils import get_object

    if "lr" in optimizer:
        return float(optimizer["lr"])
    parameter = inspect.signature(get_object(optimizer["_target_"])).parameters.get("lr")
    if parameter is None or not isinstance(parameter.default, int | float):
        raise ConfigError(f"optimizer.lr is missing: {optimizer['_target_']} has no default")
    return float(parameter.default)


def parameter_groups(network: SmearNetwork, cfg: ModelConfig, lr: float) -> list[dict[str, Any]]:
    """Groups the trained parameters by learning rate.

    Args:
        network: Its head and its trained blocks are grouped; frozen blocks are left out.
        cfg: `backbone_lr` is the last trained block's learning rate as a share of the head's, and
            each block before it has `depth_decay` times that of the next.
        lr: Learning rate of the head.

    Returns:
        For an optimizer: the head first, then the trained blocks from the last to the first.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(network.head.parameters()), "lr": lr, "name": "head"}
    ]
    first = len(network.prefix.blocks)
    for depth, block in enumerate(reversed(network.trunk)):
        groups.append(
            {
                "params": list(block.parameters()),
                "lr": lr * cfg.backbone_lr * cfg.depth_decay**depth,
                "name": f"block {first + len(network.trunk) - 1 - depth}",
            }
        )
    return groups


def warmup_cosine(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup: float = 0.1, final: float = 0.0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warms up linearly to each group's learning rate, then decays along a half cosine.

    Args:
        optimizer: The learning rates of its groups are the highest ones.
        total_steps: Number of steps of the run.
        warmup: Share of the steps for warming up; 0 to 0.9.
        final: Learning rate at the end.

    Raises:
        ConfigError: `warmup` is out of range.
    """
    if not 0 <= warmup <= 0.9:
        raise ConfigError(f"scheduler.warmup={warmup}: must lie between 0 and 0.9")
    schedulers = torch.optim.lr_scheduler
    rising = round(warmup * total_steps)
    if rising == 0:
        return schedulers.CosineAnnealingLR(optimizer, total_steps, final)
    rise = schedulers.LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)
    fall = schedulers.CosineAnnealingLR(optimizer, max(1, total_steps - rising), final)
    return schedulers.SequentialLR(optimizer, [rise, fall], [rising])


class Mixer:
    """Mixes training samples and their labels in front of the first trained block.

    Where all is trained it mixes images, else activations, so that runs with and without the
    feature bank mix the same. Where both mixup (Zhang et al., arXiv:1710.09412) and cutmix (Yun et
    al., arXiv:1905.04899) are configured, one of them is drawn for each batch. Both are
    torchvision's.

    Args:
        cfg: `mixup` and `cutmix`: alpha of the Beta distribution of the share; 0 for none.
        classes: Number of classes.
    """

    def __init__(self, cfg: AugmentConfig, classes: int) -> None:
        self._ways: list[nn.Module] = []
        self._cuts = bool(cfg.cutmix)
        if not (cfg.mixup or cfg.cutmix):
            return  # most runs need not spend time on the import
        from torchvision.transforms import v2

        if cfg.mixup:
            self._ways.append(v2.MixUp(alpha=cfg.mixup, num_classes=classes))
        if cfg.cutmix:
            self._ways.append(v2.CutMix(alpha=cfg.cutmix, num_classes=classes))

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes a batch.

        Args:
            x: Images or activations (N, C, H, W), tokens (N, T, C) or features (N, C).
            labels: Class of each sample, (N,).

        Returns:
            The mixed batch in the same shape, and shares of the classes (N, classes); without
            mixing, the labels themselves.

        Raises:
            ConfigError: Cutmix of something that is not a map.
        """
        if not self._ways:
            return x, labels
        if self._cuts and x.ndim != 4:
            raise ConfigError(
                "augment.cutmix: what is trained takes no maps; set "
                "model.unfreeze=1 or more, or augment.mixup instead"
            )
        way = self._ways[int(torch.randint(len(self._ways), ()))]
        shape = x.shape
        while x.ndim < 4:
            x = x.unsqueeze(1)
        mixed, shares = way(x, labels)
        return mixed.reshape(shape), shares
