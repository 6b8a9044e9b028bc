"""Pretrained weights of a backbone: read from a file or downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcd.config.check import first_line
from bcd.errors import BcdError
from bcd.run_folder import find_checkpoint
from bcd.storage import typed_path


def read_weights(weights: str) -> Any:
    """Reads what `model.weights` names; runs no code from the file.

    Args:
        weights: A state dict, a checkpoint of a run, or a folder as in `find_checkpoint`.

    Raises:
        BcdError: There is no such file or no checkpoint there, or torch cannot read it.
    """
    file = weights_file(weights)
    if not file.is_file():
        raise BcdError(
            f"model.weights={file}: no such file (or give imagenet, or null for random weights)"
        )
    if file.suffix == ".safetensors" and find_spec("safetensors") is None:
        raise BcdError(f"model.weights={file}: .safetensors files require pip install safetensors")
    try:
        return _loaded(file)
    except Exception as error:
        raise BcdError(f"model.weights={file}: not a PyTorch state dict") from error


def weights_file(weights: str) -> Path:
    """The file that `model.weights` names; of a run folder its best checkpoint.

    Raises:
        BcdError: There is no checkpoint in the folder.
    """
    path = typed_path(weights)
    return find_checkpoint(weights, "model.weights") if path.is_dir() else path


def plain_state(content: Any, weights: str) -> dict[str, Tensor]:
    """Checks that what `read_weights` returned is a state dict; floats become float32.

    Raises:
        BcdError: It is not one.
    """
    plain = isinstance(content, dict) and all(isinstance(v, Tensor) for v in content.values())
    if not plain or not content:
        raise BcdError(f"model.weights={weights}: not a plain state dict of tensors")
    # Some weights are published in half precision, but images are in single precision.
    return {k: v.float() if v.is_floating_point() else v for k, v in content.items()}


def _loaded(file: Path) -> Any:
    if file.suffix != ".safetensors":
        return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors.torch import load_file

    return load_file(file)


def download_state(backbone: str, weights: Any) -> dict[str, Tensor]:
    """Downloads torchvision's weights once; later calls read them from torch's cache.

    Args:
        backbone: Its name, for the error.
        weights: A `WeightsEnum` of torchvision.

    Raises:
        BcdError: The download failed; the message says what to fetch and where to put it.
    """
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except Exception as error:
        target = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(weights.url)  # noqa: PTH119
        raise BcdError(
            f"ImageNet weights of {backbone} could not be downloaded ({first_line(error)}): "
            f"download {weights.url} elsewhere and put it at {target}, or give "
            "model.weights=<its path>; model.weights=null trains from random ones"
        ) from error


def load_needed(network: nn.Module, needed: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads a state dict into a network of which only a part is needed.

    Tensors of the rest, such as a classifier that is not used, may be missing or have another
    shape; they are not loaded.

    Args:
        network: The network with the names of the state dict; its tensors are replaced.
        needed: The part, made of layers of the network.
        state: The state dict.

    Raises:
        RuntimeError: A needed tensor is missing, or one is unknown or has another shape.
    """
    wanted = {id(tensor) for tensor in needed.state_dict(keep_vars=True).values()}
    tensors = network.state_dict(keep_vars=True)
    spare = {name for name, tensor in tensors.items() if id(tensor) not in wanted}
    own = {name: value for name, value in state.items() if name not in spare}
    network.load_state_dict({**own, **{name: tensors[name] for name in spare}}, assign=True)


def misfit(error: RuntimeError) -> str:
    """The first reason why a state dict does not fit, from torch's message."""
    lines = [line.strip() for line in str(error).splitlines()[1:]]
    return (lines or [str(error)])[0][:160]
