"""Schema of the `head` group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bcd.config.values import at_least, one_of
from bcd.errors import ConfigError

TRAINED_HEADS = ("linear", "mlp")
FITTED_HEADS = ("svm", "logreg", "knn", "forest")

# What each kind reads.
KEYS_OF_HEADS = {
    "linear": (),
    "mlp": ("width", "dropout"),
    "svm": ("C", "gamma"),
    "logreg": ("C",),
    "knn": ("neighbours", "weights"),
    "forest": ("trees", "depth", "leaf"),
}


@dataclass
class HeadConfig:
    """What makes logits of pooled features; a kind reads the keys that its conf/head file has."""

    kind: str = "linear"
    width: int = 256
    dropout: float = 0.2
    C: float = 1.0
    gamma: Any = "scale"
    neighbours: int = 5
    weights: str = "distance"
    trees: int = 100
    depth: int | None = None
    leaf: int = 1

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        one_of("head.kind", self.kind, (*TRAINED_HEADS, *FITTED_HEADS))
        at_least("head.width", self.width, 1)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"head.dropout={self.dropout}: must be at least 0 and below 1")
        if self.C <= 0:
            raise ConfigError(f"head.C={self.C}: must be above 0")
        number = isinstance(self.gamma, int | float) and not isinstance(self.gamma, bool)
        if self.gamma != "scale" and not (number and self.gamma > 0):
            raise ConfigError(f"head.gamma={self.gamma}: must be 'scale' or a number above 0")
        at_least("head.neighbours", self.neighbours, 1)
        one_of("head.weights", self.weights, ("distance", "uniform"))
        at_least("head.trees", self.trees, 1)
        if self.depth is not None:
            at_least("head.depth", self.depth, 1)
        at_least("head.leaf", self.leaf, 1)

    @property
    def fitted(self) -> bool:
        """Whether scikit-learn fits it on all features at once, rather than by gradient."""
        return self.kind in FITTED_HEADS

    def check_with(self, unfreeze: Any, class_weights: str | None) -> None:
        """Refuses what the `model` group asks for and a fitted head cannot do.

        Raises:
            ConfigError: Trained blocks, or weights of classes where there is no place for them.
        """
        if self.fitted and unfreeze != 0:
            raise ConfigError(
                f"model.unfreeze={unfreeze}: head={self.kind} is fitted on frozen features; "
                "say model.unfreeze=0, or head=linear or mlp"
            )
        if self.kind == "knn" and class_weights is not None:
            raise ConfigError(
                f"model.class_weights={class_weights}: head=knn cannot weigh classes; "
                "say model.class_weights=null"
            )
