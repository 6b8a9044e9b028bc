"""Where the evidence for a class is, for any model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bcd.data.input_views import split_described
from bcd.inference.model import Model
from bcd.inference.occlusion import occlusion

if TYPE_CHECKING:
    from bcd.inference.checkpoint_model import CheckpointModel


def find_evidence(
    model: Model, packed: NDArray[np.uint8], target: int, *, checkpoint: bool, method: str = "auto"
) -> tuple[NDArray[np.float32], str]:
    """Shows where in an image the evidence for a class is.

    Args:
        model: Whose answer it is.
        packed: What was read of the image.
        target: Index of the class.
        checkpoint: Whether the model is a `CheckpointModel`; only one can be looked into, any
            other is asked about covered copies of the image.
        method: For a checkpoint, as `explain` of `bcd.explain.attribution` takes it.

    Returns:
        A map (side, side) as `Attribution` has it, and how it was made.

    Raises:
        BcdError: The checkpoint's head does not allow the method.
    """
    if not checkpoint:
        return occlusion(model, packed, target), "occlusion"
    return _of_checkpoint(model, packed, target, method)  # type: ignore[arg-type]


def _of_checkpoint(
    model: CheckpointModel, packed: NDArray[np.uint8], target: int, method: str
) -> tuple[NDArray[np.float32], str]:
    import torch

    from bcd.explain.attribution import explain
    from bcd.inference.checkpoint_model import network_inputs

    got = split_described(packed[None], model.facts.input_views)[1]
    inputs = network_inputs(list(got))
    found = explain(model.network, inputs, torch.tensor([target]), method=method)
    return found.maps[0], found.method
