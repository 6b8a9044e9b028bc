"""The configuration of `train`, and which settings contradict each other; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bcd.config.head import HeadConfig
from bcd.config.schema import (
    AugmentConfig,
    DataConfig,
    DecisionConfig,
    FeaturesConfig,
    ModelConfig,
    SplitConfig,
)
from bcd.config.values import at_least
from bcd.errors import ConfigError


def check_training(cfg: TrainConfig) -> None:
    """Refuses what would train nothing, keep nothing or be left out.

    Raises:
        ConfigError: Naming the key and what to say instead.
    """
    epochs, every = (cfg.trainer.get(k) for k in ("max_epochs", "check_val_every_n_epoch"))
    if epochs == 0:
        raise ConfigError("trainer.max_epochs=0: nothing would be trained; give 1 or more")
    if epochs is not None and epochs < -1:
        raise ConfigError(f"trainer.max_epochs={epochs}: give 1 or more, or -1 for no limit")
    if epochs is not None and 0 < epochs < (every or 0):
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every}: val is never asked in {epochs} epochs, "
            "and no best epoch found; give fewer"
        )
    if cfg.resume is not None and cfg.lr_find:
        raise ConfigError("lr_find=true: starts from the beginning; leave out resume")
    if cfg.head.fitted:
        _check_fitted(cfg)
        return
    rate = cfg.optimizer.get("lr")
    if isinstance(rate, int | float) and rate <= 0:
        raise ConfigError(f"optimizer.lr={rate}: nothing would be learnt; give more than 0")


def _check_fitted(cfg: TrainConfig) -> None:
    kind = cfg.head.kind
    if cfg.lr_find:
        raise ConfigError(f"lr_find=true: head={kind} is fitted and has no learning rate")
    for name, node in cfg.callbacks.items():
        if target_of(node).endswith("WeightAveraging"):
            raise ConfigError(f"callbacks.{name}: head={kind} is fitted, its weights have no mean")


def target_of(node: Any) -> str:
    """The class that a node of the configuration names; empty where it names none."""
    return str(node.get("_target_", "")) if isinstance(node, Mapping) else ""


@dataclass
class TrainConfig:
    """All that `train.py` reads. Dicts are handed to the class named by their `_target_`."""

    name: str = "default"
    seed: int = 0
    run_dir: str = ""
    resume: str | None = None
    lr_find: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        at_least("seed", self.seed, 0)
        check_training(self)
        self.head.check_with(self.model.unfreeze, self.model.class_weights)
