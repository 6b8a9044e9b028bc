"""Simulated sweeps in which the true accuracy of each configuration is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm


@dataclass(frozen=True)
class World:
    """Parameters of simulated configurations.

    Attributes:
        configurations: Number of configurations.
        runs: Number of seeds of each.
        images: Number of val images in each run.
        accuracy: Of a configuration.
        better: By how much the accuracy of the first is higher.
        own: Share of the variance that is specific to a configuration; the rest is the
            difficulty of an image, which all configurations share.
        wander: Standard deviation of a whole run, which repeated training would change.
        slide: Share of the shared variance that images of a slide have in common; 0: no slides.
        slides: Number of slides, of unequal size.
    """

    configurations: int = 9
    runs: int = 5
    images: int = 140
    accuracy: float = 0.95
    better: float = 0.0
    own: float = 0.1
    wander: float = 0.0
    slide: float = 0.0
    slides: int = 40

    def __str__(self) -> str:
        text = f"{self.configurations} configurations, {self.runs} x {self.images} images"
        text += f", accuracy {self.accuracy:g}"
        if self.better:
            text += f" and {self.accuracy + self.better:g}"
        text += f", own {self.own:g}" if self.own != World.own else ""
        text += f", runs vary by {self.wander:g}" if self.wander else ""
        return text + (f", {self.slides} unequal slides ({self.slide:g})" if self.slide else "")


def simulate(
    world: World, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Correctness (configurations, predictions), and the cluster and run of each prediction."""
    n = world.runs * world.images
    runs = np.repeat(np.arange(world.runs), world.images)
    clusters = np.arange(n)
    hard = rng.standard_normal(n)
    if world.slide:
        clusters = rng.choice(world.slides, size=n, p=rng.dirichlet(np.full(world.slides, 3.0)))
        of_slide = rng.standard_normal(world.slides)[clusters]
        hard = np.sqrt(1 - world.slide) * hard + np.sqrt(world.slide) * of_slide
    own = rng.standard_normal((world.configurations, n))
    moved = world.wander * rng.standard_normal((world.configurations, world.runs))
    latent = np.sqrt(1 - world.own) * hard + np.sqrt(world.own) * own + moved[:, runs]
    accuracy = np.full(world.configurations, world.accuracy)
    accuracy[0] += world.better
    limit = norm.ppf(1 - accuracy) * np.sqrt(1 + world.wander**2)
    return (latent > limit[:, None]).astype(np.float64), clusters, runs
