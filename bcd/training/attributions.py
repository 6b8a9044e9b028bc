"""Where in the test images the evidence for the answers is, for a full report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcd.console import track
from bcd.data.cells.regions import find_regions
from bcd.data.datamodule import SmearDataModule
from bcd.data.input_views import shown_pixels
from bcd.data.reading import fit
from bcd.data.views import PLAIN
from bcd.errors import BcdError
from bcd.evaluation.results import Result
from bcd.explain.attribution import explain, has_gradient
from bcd.explain.checks import RandomizationCheck, check_randomization, mass_by_region
from bcd.explain.overlay import TOP, draw_overlay
from bcd.models.network import SmearNetwork
from bcd.reporting.document import Block, Section, Table
from bcd.training.build import Run
from bcd.training.neighbours import Shown

_BATCH = 8  # images explained at a time
_SAMPLE = 40  # evenly spaced test images whose regions are measured
_CHECKED = 8  # of these, for the randomization check
_SLOW = 4  # the same numbers where each image takes seconds, as occlusion does

_METHODS = {
    "gradcam": "Grad-CAM",
    "integrated_gradients": "Integrated gradients",
    "occlusion": "Occlusion",
}


@dataclass(frozen=True)
class Attributions:
    """Overlays of answers that a report shows, and its section about them.

    Attributes:
        overlays: RGB of the size that the network gets, by row of the answer.
        sections: One, or none where the network cannot be explained.
    """

    overlays: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)


def attribute_answers(
    run: Run,
    network: SmearNetwork,
    datamodule: SmearDataModule,
    test: Result,
    shown: Shown,
    device: torch.device,
) -> Attributions:
    """Explains the answers that a report shows, and an even sample of all test images.

    Args:
        run: The run, no longer within `cached_features`.
        network: With the best weights.
        datamodule: Gives the images.
        test: Answers for the test images.
        shown: Those to show.
        device: Where to compute.
    """
    tested, rows = run.split.indices("test"), shown.examples.rows
    sample = np.unique(np.linspace(0, len(tested) - 1, min(_SAMPLE, len(tested))).astype(int))
    slow = not has_gradient(network.head)
    if slow:
        rows, sample = rows[:_SLOW], sample[:: -(-len(sample) // _SLOW)]
    every = list(dict.fromkeys([*rows, *sample.tolist()]))
    predicted = test.probabilities.argmax(axis=1)
    network.eval().to(device)
    overlays: dict[int, NDArray[np.uint8]] = {}
    maps, regions = [], []
    size = 1 if slow else _BATCH
    batches = [every[start : start + size] for start in range(0, len(every), size)]
    try:
        for batch in track(batches, "Attributions", len(every), len):
            inputs = _inputs(datamodule, [tested[row] for row in batch])
            found = explain(network, inputs, torch.from_numpy(predicted[batch]))
            for row, packed, values in zip(batch, _samples(inputs), found.maps, strict=True):
                pixels = shown_pixels(packed, datamodule.images.inputs)
                overlays[row] = draw_overlay(pixels, values)
                if row in sample:
                    maps.append(values)
                    regions.append(find_regions(_plain(datamodule, tested[row], len(values))))
        some = sample[: 2 if slow else _CHECKED]
        first = _inputs(datamodule, [tested[row] for row in some])
        checked = check_randomization(network, first)
    except BcdError as error:
        return Attributions({}, [Section("Attribution", [f"Not computed: {error}."])])
    shares = mass_by_region(np.stack(maps), regions)
    cells = [
        [name, f"{s.mass:.1%}", f"{s.top:.1%}", f"{s.area:.1%}", _figure(s.ratio)]
        for name, s in shares.items()
    ]
    what, check, where = _sentences(checked, len(maps))
    header = ["region", "evidence", f"most evident {TOP:.0%}", "area", "evidence over area"]
    blocks: list[Block] = [what, check, _randomized(checked), where, Table(header, cells)]
    return Attributions(overlays, [Section("Attribution", blocks)])


def _plain(datamodule: SmearDataModule, index: int, side: int) -> NDArray[np.uint8]:
    """The image in its own colours and with all regions, as its maps are large."""
    resized = datamodule.images.resized(index)
    return resized[side] if side in resized else fit(resized[max(resized)], side)


def _sentences(checked: RandomizationCheck, count: int) -> tuple[str, str, str]:
    return (
        f"{_METHODS[checked.method]} for the predicted class: where in an image the "
        "evidence is that raises its log-odds. An attribution shows where a network looks, not "
        "whether what it sees there is right.",
        f"{checked.verdict} Maps of {checked.images} test images before and after, as far as both "
        "show evidence:",
        f"Shares of the evidence on {count} evenly spaced test images. Regions are found by colour "
        "and shape; a ratio above 1 means that a region has more of the evidence than of the area.",
    )


def _randomized(checked: RandomizationCheck) -> Table:
    rows = [
        [s.part, *(_figure(v) for v in (s.rank_correlation, s.ssim)), str(s.compared)]
        for s in checked.stages
    ]
    header = ["weights randomized", "absolute rank correlation", "structural similarity", "images"]
    return Table(header, rows)


def _figure(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _inputs(datamodule: SmearDataModule, indices: Sequence[int]) -> Tensor:
    """Images as the network takes them."""
    source = datamodule.images
    inputs: Tensor = source.collate([source[(index, PLAIN)] for index in indices])[0]
    return inputs


def _samples(inputs: Tensor) -> list[NDArray[np.uint8]]:
    """The images of a batch as `pack` returned them."""
    last = inputs.permute(0, 2, 3, 1) if inputs.ndim == 4 else inputs
    return list(last.cpu().numpy())
