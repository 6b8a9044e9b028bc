"""Checks of attributions: whether they depend on what was learned, and which regions they name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcd.explain.attribution import Attribution, Maps, explain
from bcd.explain.overlay import top_pixels
from bcd.models.network import SmearNetwork

# What is randomized, from the head downwards.
PARTS = ("head", "head and last half", "all")
# Mean rank correlation with the maps of a network with random weights, up to which maps are said to
# depend on the weights.
MOST_SIMILAR = 0.5


@dataclass(frozen=True)
class Randomized:
    """How similar maps are to those of the same network with some weights randomized.

    Attributes:
        part: What was randomized, one of `PARTS`; halves are of the backbone's blocks.
        rank_correlation: Absolute value of Spearman's, of the pixels of a map; mean over images.
        ssim: Structural similarity of maps, each divided by its maximum; mean over images.
        compared: Number of images whose maps show evidence before and after; both means are over
            these, and NaN without any.
    """

    part: str
    rank_correlation: float
    ssim: float
    compared: int


@dataclass(frozen=True)
class RandomizationCheck:
    """The model randomization check of Adebayo et al., "Sanity checks for saliency maps", 2018.

    Attributes:
        method: Of the maps.
        stages: One for each part, the last with the most weights randomized.
        images: Number of images.
    """

    method: str
    stages: tuple[Randomized, ...]
    images: int

    @property
    def conclusive(self) -> bool:
        """Whether at least half of the maps could be compared."""
        return 2 * self.stages[-1].compared >= self.images > 0

    @property
    def passed(self) -> bool:
        """Whether the maps depend on the weights."""
        return self.conclusive and self.stages[-1].rank_correlation <= MOST_SIMILAR

    @property
    def verdict(self) -> str:
        """What the check found, in a sentence."""
        last = self.stages[-1]
        found = last.rank_correlation
        weights = "all its weights" if last.part == PARTS[-1] else f"the weights of its {last.part}"
        if not self.conclusive:
            return (
                f"Whether the maps depend on what the network learned could not be checked: with "
                f"{weights} randomized, {last.compared} of {self.images} images have evidence "
                "before and after."
            )
        if self.passed:
            return (
                f"The maps depend on what the network learned: with {weights} randomized, their "
                f"rank correlation is {found:.2f} (at most {MOST_SIMILAR} is accepted)."
            )
        return (
            f"The maps hardly depend on what the network learned: with {weights} randomized, "
            f"their rank correlation is still {found:.2f} (at most {MOST_SIMILAR} is accepted). Do "
            "not read them as reasons for an answer."
        )


def check_randomization(
    network: SmearNetwork,
    images: Tensor,
    method: str = "auto",
    seed: int = 0,
    given: Attribution | None = None,
    parts: Sequence[str] = PARTS,
) -> RandomizationCheck:
    """Compares maps with those of copies of the network whose weights are randomized.

    From the head downwards, every tensor of weights is drawn anew from its own values, so that
    their distribution stays what it was. Maps of the randomized network are of the same classes.

    Args:
        network: Not modified, but put into eval mode.
        images: As `explain` takes them.
        method: As `explain` takes it.
        seed: Of the random draws.
        given: The maps of these images, if they were already computed.
        parts: What to randomize, in the order of `PARTS`; the last decides.

    Returns:
        Similarities and a verdict. Maps that are 0 everywhere cannot be compared.
    """
    own = explain(network, images, method=method) if given is None else given
    targets = torch.from_numpy(own.targets)
    changed = copy.deepcopy(network)
    blocks: list[nn.Module] = [*changed.prefix.blocks, *changed.trunk]
    half = len(blocks) // 2
    below: list[list[nn.Module]] = [[changed.head], blocks[half:], blocks[:half]]
    modules = dict(zip(PARTS, below, strict=True))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name in PARTS[: PARTS.index(parts[-1]) + 1]:
        for module in modules[name]:
            _randomize(module, generator)
        if name in parts:
            found.append(_compare(name, own, explain(changed, images, targets, own.method)))
    return RandomizationCheck(own.method, tuple(found), len(own.maps))


@torch.no_grad()
def _randomize(part: nn.Module, generator: torch.Generator) -> None:
    """Replaces each value of a tensor of floats by another one of the same tensor."""
    for values in (*part.parameters(), *part.buffers()):
        if values.is_floating_point():
            # Much faster than a permutation, and a variance stays positive too.
            drawn = torch.randint(values.numel(), (values.numel(),), generator=generator)
            values.copy_(values.flatten().take(drawn.to(values.device)).view_as(values))


def _compare(name: str, own: Attribution, other: Attribution) -> Randomized:
    pairs = [(a, b) for a, b in zip(own.maps, other.maps, strict=True) if a.any() and b.any()]
    if not pairs:
        return Randomized(name, float("nan"), float("nan"), 0)
    return Randomized(
        name,
        # A map of edges and one of everything but edges say equally little.
        float(np.mean([abs(rank_correlation(a, b)) for a, b in pairs])),
        float(np.mean([_ssim(a, b) for a, b in pairs])),
        len(pairs),
    )


def rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Spearman's rank correlation of the values of two maps; 0 if one of them is constant."""
    from scipy.stats import rankdata

    first, second = (rankdata(one, axis=None) for one in (a, b))
    if not (np.ptp(first) and np.ptp(second)):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ssim(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    from skimage import metrics

    similarity: Any = metrics.structural_similarity
    return float(similarity(a / a.max(), b / b.max(), data_range=1.0))


@dataclass(frozen=True)
class RegionShare:
    """How much of the evidence in some images is on a region, mean over images.

    Attributes:
        mass: Share of the evidence.
        top: Share of the 5 % of the pixels with the most evidence.
        area: Share of all pixels, for comparison.
    """

    mass: float
    top: float
    area: float

    @property
    def ratio(self) -> float | None:
        """Evidence per area, 1 if it were spread evenly; None if no image has such a region."""
        return self.mass / self.area if self.area else None


def mass_by_region(
    maps: Maps, regions: Sequence[Mapping[str, NDArray[np.bool_]]]
) -> dict[str, RegionShare]:
    """Measures on which regions of images the evidence is.

    Args:
        maps: Of `Attribution`, (N, h, w). Those that are 0 everywhere are left out.
        regions: For each image a mask (h, w) by the name of the region; regions may overlap, and a
            region that an image does not have may be left out.

    Returns:
        By the name of the region; empty if all maps are 0.
    """
    shares: list[dict[str, tuple[float, float, float]]] = []
    for values, masks in zip(maps, regions, strict=True):
        if values.any():
            top = top_pixels(values)
            shares.append(
                {
                    name: (
                        float(values[mask].sum() / values.sum()),
                        float(top[mask].sum() / top.sum()),
                        float(mask.mean()),
                    )
                    for name, mask in masks.items()
                }
            )
    names = dict.fromkeys(name for share in shares for name in share)
    nothing = (0.0, 0.0, 0.0)
    means = {name: np.mean([s.get(name, nothing) for s in shares], axis=0) for name in names}
    return {name: RegionShare(*(float(v) for v in mean)) for name, mean in means.items()}
