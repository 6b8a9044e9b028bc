"""Refuses settings of training that contradict each other; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bcd.errors import ConfigError

if TYPE_CHECKING:
    from bcd.config.schema import TrainConfig


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
