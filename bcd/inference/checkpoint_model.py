"""A checkpoint as a model for predicting; computed by torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcd.data.input_views import split_described
from bcd.data.views import ViewSource
from bcd.evaluation.collect import choose_device
from bcd.evaluation.decision import DecisionPolicy, Decisions
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.model import ModelFacts
from bcd.run_folder import find_checkpoint


class CheckpointModel:
    """A checkpoint that decides about images; see `Model`.

    Args:
        ckpt: A checkpoint, or a folder as in `find_checkpoint`.
        uncalibrated: Whether to accept a checkpoint without a decision policy.
        device: `cpu`, `cuda`, `mps`, or `auto` for the first accelerator, else the CPU.

    Attributes:
        network: In eval mode, on the device.
        card: The checkpoint's description of itself.
        policy: Calibrates the network's answers and decides which are referred.

    Raises:
        BcdError: There is no such checkpoint or device, or it has no decision policy.
    """

    # One call at a time, on all cores: explanations register hooks in the network between calls.
    threads = 1
    batch = None

    def __init__(self, ckpt: str | Path, uncalibrated: bool, device: str) -> None:
        network, self.card = load_checkpoint(find_checkpoint(str(ckpt)), uncalibrated)
        self._device = choose_device(device)
        self.network = network.eval().to(self._device)
        self.policy = DecisionPolicy.from_plain(self.card.policy)

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self._device)

    @property
    def facts(self) -> ModelFacts:
        """What the card says."""
        card = self.card
        return ModelFacts(
            card.classes,
            card.benign,
            card.input_views,
            card.mask_scale_bar,
            card.appearance,
            card.recalibration,
            self.policy.calibrated,
        )

    @torch.inference_mode()
    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        """Decides about n images; see `Model`."""
        images, got = split_described(packed, self.card.input_views)
        inputs = network_inputs(list(got)).to(self._device)
        shown = inputs if images is got else network_inputs(list(images)).to(self._device)
        found = (*self.network.outputs(inputs), self.network.descriptor(shown))
        logits, disagreement, described = (part.float().cpu().numpy() for part in found)
        return self.policy.answer(logits, described, disagreement)


def network_inputs(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Stacks the pixels of images, as `Predictor.answers` yields them, into inputs of a network."""
    inputs, _ = ViewSource.collate([(torch.from_numpy(one), 0) for one in pixels])
    return inputs
