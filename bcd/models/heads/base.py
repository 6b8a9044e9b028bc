"""The MLP head, and the base class of heads that scikit-learn fits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcd.config.head import HeadConfig
from bcd.errors import BcdError
from bcd.models.data_parallel import GlobalDropout

Arrays = dict[str, NDArray[Any]]


class MlpHead(nn.Sequential):
    """One hidden layer with ReLU and dropout.

    Args:
        in_features: Size of the feature vectors.
        out_features: Number of classes.
        cfg: The `head` group.
    """

    def __init__(self, in_features: int, out_features: int, cfg: HeadConfig) -> None:
        super().__init__(
            nn.Linear(in_features, cfg.width),
            nn.ReLU(),
            GlobalDropout(cfg.dropout),
            nn.Linear(cfg.width, out_features),
        )
        self.in_features = in_features
        self.out_features = out_features


class FittedHead(nn.Module):
    """A head that is fitted on all features at once; until then all classes are equally likely.

    Args:
        in_features: Size of the feature vectors.
        out_features: Number of classes.
        cfg: The `head` group.
    """

    def __init__(self, in_features: int, out_features: int, cfg: HeadConfig) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.cfg = cfg
        self._shapes: dict[str, tuple[int | None, ...]] = {}

    def fit(
        self, features: NDArray[np.float32], labels: NDArray[np.int64], balanced: bool, seed: int
    ) -> None:
        """Fits on features (n, in_features) and labels (n,).

        Args:
            features: Of training images.
            labels: Their classes.
            balanced: Whether rare classes weigh more.
            seed: Of the random draws of the estimator.

        Raises:
            BcdError: All images are of one class.
        """
        if len(np.unique(labels)) < 2:
            raise BcdError(f"head={self.cfg.kind}: fitting requires images of at least two classes")
        found = self._learn(features, labels, balanced, seed)
        # Weights cannot be loaded into tensors that are made in inference mode.
        with torch.inference_mode(False):
            for name, old in dict(self.named_buffers(recurse=False)).items():
                new = torch.tensor(found[name], dtype=old.dtype, device=old.device)
                # As after loading: another memory layout rounds differently.
                self.register_buffer(name, new.contiguous())

    def forward(self, features: Tensor) -> Tensor:
        """Maps features (N, in_features) to logits (N, out_features), float32."""
        # Half precision is too coarse for distances and thresholds.
        with torch.autocast(features.device.type, enabled=False):
            return self._answer(features.float())

    @abstractmethod
    def _learn(
        self, features: NDArray[np.float32], labels: NDArray[np.int64], balanced: bool, seed: int
    ) -> Arrays:
        """An array for each buffer."""

    @abstractmethod
    def _answer(self, features: Tensor) -> Tensor:
        """Logits (N, classes) of features (N, F), float32."""

    def _declare(
        self, name: str, *shape: int | None, dtype: torch.dtype = torch.float32, fill: float = 0
    ) -> None:
        """Adds a buffer; None is a length that is known only after fitting."""
        self._shapes[name] = shape
        self.register_buffer(name, torch.full([n or 0 for n in shape], fill, dtype=dtype))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *rest: Any, **more: Any
    ) -> None:
        """Takes the lengths that are known only after fitting from the state dict."""
        for name, shape in self._shapes.items():
            given = state_dict.get(f"{prefix}{name}")
            if given is not None and _fits(given.shape, shape):
                self.register_buffer(name, self.get_buffer(name).new_empty(given.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)


def _fits(given: torch.Size, shape: tuple[int | None, ...]) -> bool:
    pairs = zip(given, shape, strict=False)
    return len(given) == len(shape) and all(s in (None, n) for n, s in pairs)
