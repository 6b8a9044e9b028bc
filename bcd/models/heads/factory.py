"""Heads: map pooled features to logits, trained by gradient or fitted by scikit-learn.

A fitted head stores what scikit-learn found as plain tensors and computes its logits from them in
torch. It is saved in a checkpoint like any weight, and nothing is unpickled.
"""

from __future__ import annotations

from torch import nn

from bcd.config.head import HeadConfig
from bcd.models.heads.base import FittedHead, MlpHead

Head = nn.Linear | MlpHead | FittedHead


def make_head(in_features: int, out_features: int, cfg: HeadConfig) -> Head:
    """Makes a head, untrained.

    Args:
        in_features: Size of the feature vectors.
        out_features: Number of classes.
        cfg: The `head` group.

    Returns:
        A module with `in_features` and `out_features` that maps features (N, in_features) to
        logits (N, out_features).
    """
    from bcd.models.heads.scikit_learn import ForestHead, KnnHead, LogregHead, SvmHead

    if cfg.kind == "linear":
        return nn.Linear(in_features, out_features)
    kinds: dict[str, type[MlpHead | FittedHead]] = {
        "mlp": MlpHead,
        "svm": SvmHead,
        "logreg": LogregHead,
        "knn": KnnHead,
        "forest": ForestHead,
    }
    return kinds[cfg.kind](in_features, out_features, cfg)
