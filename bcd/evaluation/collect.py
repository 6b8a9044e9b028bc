"""Runs a network over a loader and collects its outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from bcd.errors import BcdError
from bcd.evaluation.answers import Answers
from bcd.models.network import SmearNetwork


def choose_device(name: str = "auto") -> torch.device:
    """Returns the device with the given name; `auto` is the first accelerator, else the CPU.

    Raises:
        BcdError: The device is not available on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BcdError(f"device={name} is not available on this machine: try device=cpu") from error
    return device


@torch.inference_mode()
def collect_answers(
    network: SmearNetwork,
    loader: DataLoader[Any],
    device: torch.device,
    descriptors: NDArray[np.float32],
    description: str = "",
) -> Answers:
    """Computes the outputs for all images of a loader, in its order.

    Args:
        network: Is put into eval mode.
        loader: Yields (inputs, labels).
        device: Where to compute.
        descriptors: Out-of-distribution descriptors of these images, (n, d), in the same order.
        description: Text beside the progress bar; no bar if empty.
    """
    from bcd.console import track

    network.eval().to(device)
    batches = track(loader, description, len(loader)) if description else loader
    count = len(loader.sampler)  # type: ignore[arg-type]
    head: Any = network.head
    logits = np.empty((count, head.out_features), np.float32)
    labels, spread = np.empty(count, np.int64), np.empty(count, np.float32)
    done = 0
    for inputs, target in batches:
        place = slice(done, done + len(target))
        found, differ = network.outputs(inputs.to(device, non_blocking=True))
        logits[place], spread[place] = found.float().cpu().numpy(), differ.float().cpu().numpy()
        labels[place] = target.numpy()
        done += len(target)
    return Answers(logits, descriptors, labels, spread)
