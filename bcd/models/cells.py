"""Answers for an image from the features of its white cells (`data.roi=cells`).

Features of cells are (N, cells, C + 1): rows of the cells that an image has, then zeros. The last
channel is 1 for a cell and 0 where there is none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcd.config.head import HeadConfig
from bcd.config.input_views import MOST_CELLS, InputView
from bcd.errors import ConfigError
from bcd.models.data_parallel import GlobalDropout
from bcd.models.heads.factory import make_head

_ATTENTION = 128  # hidden units


def unpack_cells(batch: Any, view: InputView) -> tuple[Any, Any]:
    """Crops of cells from what `bcd.data.roi.pack_cells` packed, as arrays or tensors.

    Args:
        batch: (N, bytes): of each image the image itself, then its crops.
        view: The input view, of cells.

    Returns:
        Crops (N, MOST_CELLS, side, side, 3), and which of them there are, bool (N, MOST_CELLS).
    """
    crops = batch[:, 3 * view.image_side**2 :]
    crops = crops.reshape(batch.shape[0], MOST_CELLS, view.side, view.side, 3)
    # A missing crop is all zeros, which none is that has a stained cell in it.
    return crops, (crops.reshape(batch.shape[0], MOST_CELLS, -1) != 0).any(2)


def place_cells(found: Tensor, present: Tensor) -> Tensor:
    """Puts the features of cells at their places.

    Args:
        found: Of all cells of all images, (cells, C).
        present: Which cells each image has, bool (N, MOST_CELLS).

    Returns:
        (N, MOST_CELLS, C + 1).
    """
    # The same operations whatever the number of cells, so that they can be traced for export.
    marked = functional.pad(found, (0, 1), value=1.0)
    rows = torch.cat([marked.new_zeros(1, marked.shape[1]), marked])
    places = torch.cumsum(present.flatten().to(torch.int64), 0) * present.flatten()
    return rows[places].reshape(*present.shape, -1)


def mean_of_cells(features: Tensor) -> Tensor:
    """Mean features (N, C) of the cells of images, from (N, cells, C + 1); 0 without cells."""
    return features[..., :-1].sum(1) / features[..., -1:].sum(1).clamp(min=1)


class CellHead(nn.Module):
    """A head for each cell of an image, whose answers are pooled.

    - `mean`: the mean of the probabilities of the cells.
    - `noisy_or`: for each class the probability that at least one cell is of it, if cells were
      independent; normalized to sum to 1.
    - `attention`: the head answers once, for a weighted mean of the features of the cells; the
      weights are learnt (gated attention: Ilse et al., "Attention-based deep multiple instance
      learning", ICML 2018).

    An image without a cell gets equal logits, so that it is referred.

    Args:
        in_features: Size C of the feature vectors.
        out_features: Number of classes.
        cfg: The `head` group.
        pooling: One of these.
        dropout: Rate for the features of a cell.

    Raises:
        ConfigError: The head is fitted by scikit-learn.
    """

    def __init__(
        self, in_features: int, out_features: int, cfg: HeadConfig, pooling: str, dropout: float
    ) -> None:
        super().__init__()
        if cfg.fitted:
            raise ConfigError(
                f"head={cfg.kind}: data.roi=cells needs a head that is trained: linear or mlp"
            )
        self.in_features, self.out_features = in_features, out_features
        self.pooling = pooling
        self.dropout = GlobalDropout(dropout)
        self.head = make_head(in_features, out_features, cfg)
        if pooling == "attention":
            self.gate = nn.Linear(in_features, _ATTENTION)
            self.value = nn.Linear(in_features, _ATTENTION)
            self.weight = nn.Linear(_ATTENTION, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps features of cells (N, cells, C + 1) to logits (N, classes)."""
        features, present = x[..., :-1], x[..., -1] > 0.5
        features = self.dropout(features)
        pooled = self._attend(features, present) if self.pooling == "attention" else None
        logits = self._pool(features, present) if pooled is None else self.head(pooled)
        return torch.where(present.any(1, keepdim=True), logits, torch.zeros_like(logits))

    def _pool(self, features: Tensor, present: Tensor) -> Tensor:
        """Pools log-probabilities of the cells to logits (N, classes)."""
        each = torch.log_softmax(self.head(features), dim=2)
        if self.pooling == "mean":
            # Not minus infinity, whose gradient is not a number for an image without cells.
            each = each.masked_fill(~present[..., None], -1e4)
            return torch.logsumexp(each, 1) - present.sum(1, True).clamp(min=1).to(each.dtype).log()
        # log(1 - p) of each cell; p is kept off 1, where it has no gradient.
        none = torch.log1p(-each.exp().clamp(max=1 - 1e-6)).masked_fill(~present[..., None], 0)
        return torch.log(-torch.expm1(none.sum(1)).clamp(max=-1e-12))

    def _attend(self, features: Tensor, present: Tensor) -> Tensor:
        """The weighted mean (N, C) of the features of an image's cells."""
        hidden = torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))
        scores = self.weight(hidden)[..., 0].masked_fill(~present, -1e4)
        return (torch.softmax(scores, 1)[..., None] * features).sum(1)
