"""Attributions: how much each place of an image contributes to the network's answer."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcd.errors import BcdError
from bcd.explain.cells import one_with_cells
from bcd.explain.layers import find_layers
from bcd.explain.methods import gradcam, images_at_once, integrated_gradients, occlusion
from bcd.models.heads.averaged import AveragedHeads
from bcd.models.heads.scikit_learn import ForestHead, KnnHead
from bcd.models.network import SmearNetwork

Maps = NDArray[np.float32]

# Standard deviation, as a share of the image's side, with which integrated gradients are smoothed:
# those of neighbouring pixels have opposite signs and would both be seen.
_SMOOTHING = 0.02
STEPS = 16  # of integrated gradients


@dataclass(frozen=True)
class Attribution:
    """Maps of the evidence in some images for a class each.

    Attributes:
        maps: float32 (N, side, side), not negative, each with the sum 1, or 0 everywhere if no
            place speaks for the class. The side is that of the images, or of the largest input
            view.
        targets: The class whose log-odds are explained, (N,).
        method: How the maps were made: gradcam, integrated_gradients or occlusion.
    """

    maps: Maps
    targets: NDArray[np.int64]
    method: str

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Which maps are 0 everywhere, (N,)."""
        return np.asarray(~self.maps.any(axis=(1, 2)))


def explain(
    network: SmearNetwork,
    images: Tensor,
    targets: Tensor | None = None,
    method: str = "auto",
    steps: int = STEPS,
) -> Attribution:
    """Computes where in images the evidence for a class is.

    Evidence is what raises the log-odds of the class against all others; places that speak against
    it are 0. The answers of the network do not change.

    Args:
        network: Is put into eval mode; its weights were not made in inference mode.
        images: uint8 as the network takes them: (N, 3, H, W), or bytes (N, all input views).
        targets: The class to explain of each image, (N,); None: the most probable one.
        method: `gradcam`: coarse and quick, at the resolution of the network's last maps.
            `integrated_gradients`: by pixel. `occlusion`: by covering squares; slow, but it needs
            no gradient. `auto`: Grad-CAM, or occlusion for a head without a gradient (forest,
            knn), or integrated gradients for a network that has no last maps.
        steps: Of integrated gradients.

    Returns:
        Maps with their method, on the CPU.

    Raises:
        BcdError: The network or its head does not allow the method.
    """
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode(False), torch.enable_grad():
        x = images.to(device).clone()
        if targets is None:
            with torch.no_grad():
                targets = network.outputs(x)[0].argmax(1)
        targets, x = targets.to(device), x.float()
        chosen, layers = _choose(network, x, method)
        size = images_at_once(x)
        found = []
        for first in range(0, len(x), size):
            part, classes = x[first : first + size], targets[first : first + size]
            if chosen == "gradcam" and not layers:
                side = network.prefix.views[0].image_side
                found.append(part.new_zeros(len(part), side, side))
            elif chosen == "gradcam":
                found.append(gradcam(network, part, classes, layers))
            elif chosen == "occlusion":
                found.append(occlusion(network, part, classes))
            else:
                found.append(integrated_gradients(network, part, classes, steps))
    signed = torch.cat(found).float().cpu().numpy()
    if chosen == "integrated_gradients":
        signed = np.stack([_smoothed(one) for one in signed])
    return Attribution(_normalized(signed), targets.cpu().numpy(), chosen)


def check_method(network: SmearNetwork, method: str) -> None:
    """Checks that a network's head allows a method.

    Raises:
        BcdError: It has no gradient, and the method needs one; or answers are pooled over cells.
    """
    if network.prefix.of_cells and method not in ("auto", "gradcam"):
        raise BcdError(f"explain={method}: with data.roi=cells only gradcam is possible")
    if method in ("gradcam", "integrated_gradients") and not has_gradient(network.head):
        raise BcdError(
            f"explain={method}: forest and knn heads have no gradient: set explain=occlusion"
        )


def _choose(network: SmearNetwork, x: Tensor, method: str) -> tuple[str, list[nn.Module]]:
    """The method for `auto`, and the layers of Grad-CAM."""
    check_method(network, method)
    if method == "auto" and not has_gradient(network.head):
        return "occlusion", []
    if method not in ("auto", "gradcam"):
        return method, []
    one = x[:1]
    if network.prefix.of_cells:
        one = one_with_cells(x, network.prefix.views[0])
        if not len(one):  # and so every map is 0
            return "gradcam", []
    layers = find_layers(network, one)
    if layers:
        return "gradcam", layers
    if method == "gradcam":
        raise BcdError(
            "explain=gradcam: this network is not a sequence of layers with maps: set "
            "explain=integrated_gradients"
        )
    return "integrated_gradients", []


def has_gradient(head: nn.Module) -> bool:
    """Whether a head has a gradient; forests and nearest neighbours have none."""
    heads = list(head.heads) if isinstance(head, AveragedHeads) else [head]
    return not any(isinstance(one, ForestHead | KnnHead) for one in heads)


def _smoothed(signed: Maps) -> Maps:
    sigma = _SMOOTHING * len(signed)
    return np.asarray(cv2.GaussianBlur(signed, (0, 0), sigma), np.float32)


def _normalized(signed: Maps) -> Maps:
    """The positive parts of maps, each with the sum 1; 0 where nothing is positive or finite."""
    finite = np.isfinite(signed).all(axis=(1, 2), keepdims=True)
    positive = np.where(finite, np.maximum(signed, 0), 0).astype(np.float64)
    largest = positive.max(axis=(1, 2), keepdims=True)
    positive /= np.where(largest > 0, largest, 1)  # sums of tiny numbers may underflow
    total = positive.sum(axis=(1, 2), keepdims=True)
    return (positive / np.where(total > 0, total, 1)).astype(np.float32)
