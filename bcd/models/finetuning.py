"""Fine-tuning: learning rates by depth, a warmed-up schedule, and mixing of training samples."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.errors import ConfigError
from bcd.models.network import SmearNetwork


def learning_rate(optimizer: Mapping[str, Any]) -> float:
    """The learning rate of the `optimizer` group; where it has none, the default of its class.

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
    """Groups what is trained by how fast it is to learn.

    Args:
        network: Its head and its trained blocks are grouped; what is frozen is left out.
        cfg: `backbone_lr` is the last trained block's learning rate as a share of the head's, and
            each block before it has `depth_decay` times that of the next.
        lr: Of the head.

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
    """Rises evenly to each group's own learning rate, then falls along a half cosine.

    Args:
        optimizer: Whose groups' learning rates are the highest ones.
        total_steps: Of the run.
        warmup: Share of the steps for rising; 0 to 0.9.
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
    """Mixes training samples and their labels, where the trained part begins.

    That is in front of the first trained block, on images where all is trained and else on
    activations, so that a run with the feature bank and one without mix the same. One of mixup
    (Zhang et al., arXiv:1710.09412) and cutmix (Yun et al., arXiv:1905.04899) is drawn for each
    batch where both are wanted; torchvision does it.

    Args:
        cfg: `mixup` and `cutmix`: alpha of the Beta distribution of the share; 0 for none.
        classes: Number of classes.
    """

    def __init__(self, cfg: AugmentConfig, classes: int) -> None:
        self._ways: list[nn.Module] = []
        self._cuts = bool(cfg.cutmix)
        if not (cfg.mixup or cfg.cutmix):
            return  # the import takes time that most runs need not spend
        from torchvision.transforms import v2

        if cfg.mixup:
            self._ways.append(v2.MixUp(alpha=cfg.mixup, num_classes=classes))
        if cfg.cutmix:
            self._ways.append(v2.CutMix(alpha=cfg.cutmix, num_classes=classes))

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes a batch.

        Args:
            x: Images or activations (N, C, H, W), tokens (N, T, C) or features (N, C).
            labels: Of classes, (N,).

        Returns:
            The mixed batch in the same shape, and shares of the classes (N, classes); labels as
            they are where nothing is to be mixed.

        Raises:
            ConfigError: Cutmix of something that is no image.
        """
        if not self._ways:
            return x, labels
        if self._cuts and x.ndim != 4:
            raise ConfigError(
                "augment.cutmix: the trained part begins behind the last map; say "
                "model.unfreeze=1 or more, or augment.mixup instead"
            )
        way = self._ways[int(torch.randint(len(self._ways), ()))]
        shape = x.shape
        while x.ndim < 4:
            x = x.unsqueeze(1)
        mixed, shares = way(x, labels)
        return mixed.reshape(shape), shares
