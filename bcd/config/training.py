"""The configuration of `train`, and checks for contradicting settings; fast to import.

Fields have no defaults: those are in `conf/` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bcd.config.decision import DecisionConfig
from bcd.config.head import HeadConfig
from bcd.config.input_views import CELLS
from bcd.config.schema import (
    AugmentConfig,
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    SplitConfig,
)
from bcd.config.values import at_least, one_of
from bcd.errors import ConfigError

BRIEF, FULL = REPORTS = ("brief", "full")
LOGGED_IMAGES = "images"  # the key of the `logger` group that is no logger


def check_training(cfg: TrainConfig) -> None:
    """Refuses settings with which nothing would be trained, or that contradict each other.

    Raises:
        ConfigError: Names the key and what to set instead.
    """
    epochs, every = (cfg.trainer.get(k) for k in ("max_epochs", "check_val_every_n_epoch"))
    if epochs == 0:
        raise ConfigError("trainer.max_epochs=0: nothing would be trained; set 1 or more")
    if epochs is not None and epochs < -1:
        raise ConfigError(f"trainer.max_epochs={epochs}: set 1 or more, or -1 for no limit")
    if epochs is not None and 0 < epochs < (every or 0):
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every}: val is never evaluated in {epochs} "
            "epochs, so no best epoch is found; set fewer"
        )
    if cfg.resume is not None and cfg.lr_find:
        raise ConfigError("lr_find=true: always starts from the beginning; leave out resume")
    if cfg.decision.refer is not None:
        raise ConfigError(
            f"decision.refer={cfg.decision.refer}: only experiment=release has one limit for all "
            "reasons; set decision.low_confidence and decision.ood"
        )
    _check_priors(cfg)
    _check_logger(cfg.logger)
    if cfg.model.roi == CELLS:
        _check_cells(cfg)
    if cfg.head.fitted:
        _check_fitted(cfg)
        return
    rate = cfg.optimizer.get("lr")
    if isinstance(rate, int | float) and rate <= 0:
        raise ConfigError(f"optimizer.lr={rate}: nothing would be learnt; set more than 0")


def _check_priors(cfg: TrainConfig) -> None:
    """Refuses to correct twice: balanced training already replaces train's class shares."""
    balanced = {
        "model.class_weights=balanced": cfg.model.class_weights is not None,
        "data.balanced=true": cfg.data.balanced,
    }
    for setting, given in balanced.items():
        if cfg.decision.prior_correction and given:
            raise ConfigError(
                f"decision.prior_correction=true: {setting} already trains as if classes were "
                "equally frequent; leave one of them out"
            )


def _check_cells(cfg: TrainConfig) -> None:
    """Refuses what cannot be done with a crop of each cell."""
    if cfg.head.fitted:
        raise ConfigError(
            f"head={cfg.head.kind}: data.roi=cells needs a head that is trained: linear or mlp"
        )
    for key in ("mixup", "cutmix"):
        if getattr(cfg.augment, key):
            raise ConfigError(f"augment.{key}: images with data.roi=cells cannot be mixed; set 0")


def _check_fitted(cfg: TrainConfig) -> None:
    kind = cfg.head.kind
    if cfg.lr_find:
        raise ConfigError(f"lr_find=true: head={kind} is fitted and has no learning rate")
    for name, node in cfg.callbacks.items():
        if target_of(node).endswith("WeightAveraging"):
            raise ConfigError(
                f"callbacks.{name}: head={kind} is fitted, so there are no weights to average"
            )


def _check_logger(logger: Mapping[str, Any]) -> None:
    """Refuses what is neither a logger nor the key beside them.

    Raises:
        ConfigError: Names the key and what it needs.
    """
    for name, node in logger.items():
        if name == LOGGED_IMAGES:
            if not isinstance(node, bool):
                raise ConfigError(f"logger.{name}={node}: needs true or false")
        elif node is not None and not target_of(node):
            raise ConfigError(f"logger.{name}={node}: needs the _target_ of a logger, or null")


def target_of(node: Any) -> str:
    """The class that a configuration node names with `_target_`; empty if it names none."""
    return str(node.get("_target_", "")) if isinstance(node, Mapping) else ""


@dataclass
class TrainConfig:
    """The configuration of `bcd train`. Dicts are passed to the class that `_target_` names."""

    name: str
    seed: int
    run_dir: str
    resume: str | None
    lr_find: bool
    report: str
    data: DataConfig
    split: SplitConfig
    augment: AugmentConfig
    model: ModelConfig
    head: HeadConfig
    features: FeaturesConfig
    decision: DecisionConfig
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    trainer: dict[str, Any]
    callbacks: dict[str, Any]
    logger: dict[str, Any]

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        at_least("seed", self.seed, 0)
        if self.model.roi != self.data.roi:
            raise ConfigError(f"model.roi={self.model.roi}: set data.roi={self.model.roi} instead")
        one_of("report", self.report, REPORTS)
        check_training(self)
        self.head.check_with(self.model.unfreeze, self.model.class_weights)

    @property
    def logs_images(self) -> bool:
        """Whether photographs are logged."""
        return bool(self.logger.get(LOGGED_IMAGES))
