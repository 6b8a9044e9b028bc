"""The whole answer of a checkpoint as one module: from pixels to decisions."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bcd.config.input_views import InputView
from bcd.data.input_views import packed_shape, split_described, views_to_read
from bcd.data.reading import BAR_HEIGHT, BAR_WIDTH
from bcd.evaluation.decision import DecisionPolicy
from bcd.export.policy import PolicyGraph, thresholds
from bcd.export.resize import resize
from bcd.features.engines import fold_batchnorm
from bcd.models.heads.averaged import AveragedHeads
from bcd.models.heads.scikit_learn import ForestHead
from bcd.models.network import SmearNetwork


def prepares_in_graph(views: Sequence[InputView]) -> bool:
    """Whether a graph makes the input views from an image: if there is one, the image resized."""
    return len(views) == 1 and views[0].is_plain


def _resize_if_needed(images: Tensor, side: int) -> Tensor:
    if images.shape[1] == side and images.shape[2] == side:
        return images
    return resize(images, side)


class ExportModule(nn.Module):
    """From images to decisions.

    Args:
        network: It is copied; BatchNorm is folded into the convolutions.
        policy: Of its checkpoint.
        views: Input views.
        mask: Whether the corner with the scale bar is covered.
        format: `onnx` or `program`.

    Attributes:
        names: Of the inputs: the images first, then the thresholds.
        defaults: Of the thresholds.
        tells_outputs: Whether the network's logits, float32 (N, classes), and descriptors, (N, d),
            are last outputs.
    """

    def __init__(
        self,
        network: SmearNetwork,
        policy: DecisionPolicy,
        views: Sequence[InputView],
        mask: bool,
        format: str,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().float().eval()
        fold_batchnorm(self.network)
        for part in self.network.modules():
            if isinstance(part, ForestHead):
                part.steps = int(part.get_buffer("depth"))  # a program holds no such loop
        head = self.network.head
        members = len(head.heads) if isinstance(head, AveragedHeads) else 1
        self.defaults = thresholds(policy, members)
        self.policy = PolicyGraph(policy, int(head.out_features))
        self.views, self.mask = tuple(views), mask
        # A program can hold no condition on the size of its input.
        self.fit = _scripted() if format == "onnx" else resize
        self.in_graph = prepares_in_graph(views)
        self.names = ("images" if self.in_graph else "packed", *self.defaults)
        self.tells_outputs = False
        self.requires_grad_(False)

    def forward(self, images: Tensor, *limits: Tensor) -> tuple[Tensor, ...]:
        """Maps images to decisions.

        Args:
            images: uint8; RGB (N, height, width, 3) of any size, or what
                `bcd.data.input_views.pack` makes of the views to read, (N, ...).
            limits: The thresholds, each float64 of shape ().

        Returns:
            The `OUTPUTS` of `bcd.export.policy`.
        """
        described, inputs = self._inputs(images)
        logits, disagreement = self.network.outputs(inputs)
        found = self.network.descriptor(described)
        named = dict(zip(self.defaults, limits, strict=True))
        answer: tuple[Tensor, ...] = self.policy(logits, found, disagreement, named)
        return (*answer, logits, found) if self.tells_outputs else answer

    def _inputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What is described and what the network gets, as it takes them."""
        if not self.in_graph:
            described, inputs = split_described(images, self.views)
            return _channels_first(described), _channels_first(inputs)
        inputs = _channels_first(self._prepared(images, self.views[0].side))
        return inputs, inputs

    def _prepared(self, images: Tensor, side: int) -> Tensor:
        """Images resized to (N, side, side, 3), with the scale bar covered if requested."""
        # The shape is known from here on, whichever branch was taken.
        resized = self.fit(images, side).reshape(-1, side, side, 3)
        if not self.mask:
            return resized
        down, across = round(BAR_HEIGHT * side), round(BAR_WIDTH * side)
        beside = resized[:, side - down :, side - 2 * across : side - across].flip(2)
        above, below = resized[:, : side - down], resized[:, side - down :]
        return torch.cat([above, torch.cat([below[:, :, : side - across], beside], 2)], 1)


@functools.cache
def _scripted() -> Callable[[Tensor, int], Tensor]:
    """Resizing that costs nothing for images of the right size; tracing keeps no condition."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # only the tracing exporter needs it
        scripted: Callable[[Tensor, int], Tensor] = torch.jit.script(_resize_if_needed)
    return scripted


def _channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2) if images.ndim == 4 else images


def example(views: Sequence[InputView]) -> Tensor:
    """An input to trace with: two images of another size than the network's, or packed bytes."""
    if prepares_in_graph(views):
        return torch.zeros(2, 45, 52, 3, dtype=torch.uint8)
    return torch.zeros(2, *packed_shape(views_to_read(views)), dtype=torch.uint8)
