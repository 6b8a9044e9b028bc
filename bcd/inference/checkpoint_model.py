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
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.inference.model import ModelFacts
from bcd.models.network import SmearNetwork
from bcd.run_folder import find_checkpoint
from bcd.storage import digest


class CheckpointModel:
    """A checkpoint that decides about images; see `Model`.

    Args:
        network: The checkpoint's network.
        card: The checkpoint's card.
        device: `cpu`, `cuda`, `mps`, or `auto` for the first accelerator, else the CPU.

    Attributes:
        network: In eval mode, on the device.
        card: The checkpoint's description of itself.
        policy: Calibrates the network's answers and decides which are referred.
        facts: What the card says.

    Raises:
        BcdError: There is no such device.
    """

    # One call at a time, on all cores: explanations register hooks in the network between calls.
    threads = 1
    batch = None

    def __init__(self, network: SmearNetwork, card: Card, device: str) -> None:
        self.card = card
        self._device = choose_device(device)
        self.network = network.eval().to(self._device)
        self.policy = DecisionPolicy.from_plain(self.card.policy)
        self.facts = _facts(self.card)

    @classmethod
    def load(cls, ckpt: str | Path, uncalibrated: bool, device: str) -> CheckpointModel:
        """Loads a checkpoint.

        Args:
            ckpt: A checkpoint, or a folder as in `find_checkpoint`.
            uncalibrated: Whether to accept a checkpoint without a decision policy.
            device: As for the class.

        Raises:
            BcdError: There is no such checkpoint or device, or it has no decision policy.
        """
        return cls(*load_checkpoint(find_checkpoint(str(ckpt)), uncalibrated), device)

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self._device)

    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        """Decides about n images; see `Model`."""
        return self.policy.answer(*self.outputs(packed))

    @torch.inference_mode()
    def outputs(
        self, packed: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """What the decision policy decides on.

        Args:
            packed: As for `answer`.

        Returns:
            Logits (n, classes), out-of-distribution descriptors (n, d), and how much the members of
            an ensemble disagree (n,).
        """
        images, got = split_described(packed, self.card.input_views)
        inputs = network_inputs(list(got)).to(self._device)
        shown = inputs if images is got else network_inputs(list(images)).to(self._device)
        logits, disagreement = self.network.outputs(inputs)
        found = (logits, self.network.descriptor(shown), disagreement)
        first, second, third = (part.float().cpu().numpy() for part in found)
        return first, second, third


def _facts(card: Card) -> ModelFacts:
    return ModelFacts(
        card.classes,
        card.benign,
        card.input_views,
        card.mask_scale_bar,
        card.appearance,
        card.recalibration,
        card.policy is not None,
        digest(card.text()),
        card.policy,
        card.release is not None,
    )


def network_inputs(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Stacks the pixels of images, as `Predictor.answers` yields them, into inputs of a network."""
    inputs, _ = ViewSource.collate([(torch.from_numpy(one), 0) for one in pixels])
    return inputs
