"""Schema of the `head` group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bcd.config.values import at_least, one_of
from bcd.errors import ConfigError

TRAINED_HEADS = ("linear", "mlp")
FITTED_HEADS = ("svm", "logreg", "knn", "forest")

# The keys that each kind of head reads.
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
    """The head, which maps pooled features to logits; `KEYS_OF_HEADS` has what each kind reads."""

    kind: str
    width: int
    dropout: float
    C: float
    gamma: float | Literal["scale"]
    neighbours: int
    weights: str
    trees: int
    depth: int | None
    leaf: int

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        one_of("head.kind", self.kind, (*TRAINED_HEADS, *FITTED_HEADS))
        at_least("head.width", self.width, 1)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"head.dropout={self.dropout}: must be at least 0 and below 1")
        if self.C <= 0:
            raise ConfigError(f"head.C={self.C}: must be above 0")
        if self.gamma != "scale" and (isinstance(self.gamma, str) or self.gamma <= 0):
            raise ConfigError(f"head.gamma={self.gamma}: must be 'scale' or a number above 0")
        at_least("head.neighbours", self.neighbours, 1)
        one_of("head.weights", self.weights, ("distance", "uniform"))
        at_least("head.trees", self.trees, 1)
        if self.depth is not None:
            at_least("head.depth", self.depth, 1)
        at_least("head.leaf", self.leaf, 1)

    @property
    def fitted(self) -> bool:
        """Whether scikit-learn fits the head to all features at once, not gradient descent."""
        return self.kind in FITTED_HEADS

    def check_with(self, unfreeze: int | Literal["all"], class_weights: str | None) -> None:
        """Checks the `model` group against what a fitted head supports.

        Args:
            unfreeze: `model.unfreeze`.
            class_weights: `model.class_weights`.

        Raises:
            ConfigError: Blocks are trained, or the head does not support class weights.
        """
        if self.fitted and unfreeze != 0:
            raise ConfigError(
                f"model.unfreeze={unfreeze}: head={self.kind} is fitted on frozen features; "
                "set model.unfreeze=0, or head=linear or mlp"
            )
        if self.kind == "knn" and class_weights is not None:
            raise ConfigError(
                f"model.class_weights={class_weights}: head=knn does not support class weights; "
                "set model.class_weights=null"
            )
