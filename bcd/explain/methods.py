"""Grad-CAM, integrated gradients and occlusion, for every network and head of the project.

All three explain the log-odds of a class against all others. Unlike its probability, these do not
saturate where the network is sure; unlike a logit, they contain nothing that speaks for all classes
alike; and they are defined for members and test-time views, whose probabilities are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcd.explain.cells import place_on_images
from bcd.explain.layers import as_maps
from bcd.explain.pixels import background_colours, empty_fields, join_views, split_views
from bcd.models.network import SmearNetwork
from bcd.models.test_time import tta_views

# Sides of the squares that occlusion covers, as shares of the image's: about a white cell's in a
# field, and a larger one, as a small one alone may change no vote of a forest or of neighbours.
_SQUARES = (1 / 6, 1 / 3)


def log_odds(network: SmearNetwork, x: Tensor, targets: Tensor) -> Tensor:
    """Log-odds (N,) of classes against all others.

    Args:
        network: In eval mode.
        x: As the network takes it, bytes or floats, whose gradient is followed if they require one.
        targets: The class of each image, (N,).
    """
    logits = network.outputs(x)[0]
    chosen = functional.one_hot(targets, logits.shape[1]).bool()
    return logits[chosen] - logits.masked_fill(chosen, -torch.inf).logsumexp(1)


def gradcam(
    network: SmearNetwork, x: Tensor, targets: Tensor, layers: Sequence[nn.Module]
) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017): maps of a late layer, weighted by their gradients.

    The maps of all input views, test-time views, fused networks and members are added: each sums
    up to its own contribution to the log-odds. Those of test-time views are turned, mirrored and
    scaled back first. Those of cells are placed where the cells are.

    Args:
        network: In eval mode.
        x: As the network takes it, as floats.
        targets: The class of each image, (N,).
        layers: From `find_layers`.

    Returns:
        Evidence (N, side, side) for the class, negative where it speaks against it.
    """
    calls: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def keep(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # from here on, also in a frozen prefix
        calls[layer].append(output.detach().requires_grad_())
        return calls[layer][-1].clone()  # the next layer may work in place

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(keep).remove)
        score = log_odds(network, x, targets).sum()
    kept = [output for outputs in calls.values() for output in outputs]
    found = iter(torch.autograd.grad(score, kept))
    if network.prefix.of_cells:
        view = network.prefix.views[0]
        own = [_resized(_weighted(output, next(found)), view.side) for output in kept]
        return place_on_images(torch.stack(own).sum(0), x, view)
    side = max(view.shape[2] for view in split_views(x, _sides(network)))
    total = x.new_zeros(len(x), 1, side, side)
    for outputs in calls.values():
        maps = [_resized(_weighted(output, next(found)), side) for output in outputs]
        total += sum(maps) if network.test_time is None else _undone(maps, network.test_time)
    return total[:, 0]


def _sides(network: SmearNetwork) -> list[int]:
    """Of its input views in pixels."""
    return [view.side for view in network.prefix.views]


def _weighted(output: Tensor, gradient: Tensor) -> Tensor:
    maps, slopes = as_maps(output.detach()), as_maps(gradient)
    assert maps is not None and slopes is not None
    return (maps * slopes.mean((2, 3), keepdim=True)).sum(1, keepdim=True)


def _resized(maps: Tensor, side: int) -> Tensor:
    """Maps (N, 1, h, w) at another size, with the same sum but for what is cut at the border."""
    larger = functional.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
    return larger * (maps.shape[2] * maps.shape[3] / side**2)


def _undone(maps: Sequence[Tensor], kind: str) -> Tensor:
    """Adds maps of test-time views, each at the places of the image that it comes from."""
    with torch.enable_grad():
        image = torch.zeros_like(maps[0]).requires_grad_()
        views = tta_views(image, kind)
    # A view is a linear function of the image, whose gradient sends a map back.
    (found,) = torch.autograd.grad(views, image, list(maps))
    return found


def integrated_gradients(network: SmearNetwork, x: Tensor, targets: Tensor, steps: int) -> Tensor:
    """Integrated gradients (Sundararajan et al., ICML 2017), of pixels, added over channels.

    The baseline is an empty field, an image of the colour of its background (the brightest quarter
    of its pixels). So these maps cannot show evidence in the background itself.

    Args:
        network: In eval mode.
        x: As the network takes it, as floats.
        targets: The class of each image, (N,).
        steps: Between baseline and image.

    Returns:
        Evidence (N, side, side) for the class, negative where it speaks against it.
    """
    from captum.attr import IntegratedGradients

    sides = _sides(network)
    method = IntegratedGradients(lambda pixels, classes: log_odds(network, pixels, classes))
    found = method.attribute(
        x,
        baselines=empty_fields(x, sides),
        additional_forward_args=(targets,),
        n_steps=steps,
        internal_batch_size=images_at_once(x),
    )
    views = [view.sum(1, keepdim=True).float() for view in split_views(found.detach(), sides)]
    side = max(view.shape[2] for view in views)
    return torch.stack([_resized(view, side) for view in views]).sum(0)[:, 0]


def images_at_once(x: Tensor) -> int:
    """How many images to compute gradients for at a time, for about half a GB in MobileNetV2."""
    return max(1, 4 * 3 * 224**2 // x[0].numel())


@torch.no_grad()
def occlusion(network: SmearNetwork, x: Tensor, targets: Tensor) -> Tensor:
    """Occlusion (Zeiler and Fergus, ECCV 2014): how the log-odds fall as squares are covered.

    Squares have a sixth or a third of the image's side, overlap by half, and get the colour of the
    image's background, at the same place of every input view, as if nothing were there. So these
    maps cannot show evidence in the background itself. A pixel has the mean fall of each size.

    Args:
        network: In eval mode.
        x: As the network takes it, as floats.
        targets: The class of each image, (N,).

    Returns:
        Evidence (N, side, side) for the class, negative where it speaks against it.
    """
    return torch.stack([_occluded(network, x[i : i + 1], targets[i]) for i in range(len(x))])


def _occluded(network: SmearNetwork, x: Tensor, target: Tensor) -> Tensor:
    """The same for one image (1, ...), with one pass for several squares."""
    views = split_views(x, _sides(network))
    colours = [background_colours(view)[0] for view in views]
    largest = max(views, key=lambda view: view.shape[2])
    total = torch.zeros_like(largest[0, 0])
    before, size = log_odds(network, x, target[None]), 8 * images_at_once(x)
    for share in _SQUARES:
        falls, count = torch.zeros_like(total), torch.zeros_like(total)
        squares = _squares(share)
        for first in range(0, len(squares), size):
            some = squares[first : first + size]
            covered = [view.repeat(len(some), 1, 1, 1) for view in views]
            for view, colour in zip(covered, colours, strict=True):
                for one, square in zip(view, some, strict=True):
                    one[(slice(None), *_pixels(square, len(one[0])))] = colour[:, None, None]
            after = log_odds(network, join_views(covered), target.expand(len(some)))
            for square, fall in zip(some, before - after, strict=True):
                place = _pixels(square, len(total))
                falls[place] += fall
                count[place] += 1
        total += falls / count.clamp(min=1)
    return total


Square = tuple[float, float, float]  # top, left and side, as shares of the image's side


def _squares(side: float) -> list[Square]:
    """Squares that overlap by half."""
    starts = [number * side / 2 for number in range(round(2 / side) - 1)]
    return [(top, left, side) for top in starts for left in starts]


def _pixels(square: Square, side: int) -> tuple[slice, slice]:
    """Rows and columns of a square in an image of so many pixels a side."""
    *starts, length = square
    rows, columns = (slice(round(a * side), round((a + length) * side)) for a in starts)
    return rows, columns
