"""Sweeps that never ran: who was right on what, where the truth about the settings is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm


@dataclass(frozen=True)
class World:
    """How simulated settings behave.

    Attributes:
        settings: How many.
        runs: Seeds of each.
        pictures: On val in each run.
        accuracy: Of a setting.
        better: By how much more the first is right.
        own: Share of the variance that a setting has for itself; the rest is how hard a picture
            is, which all settings share.
        wander: Standard deviation of a whole run, which training again would change.
        slide: Share of the shared variance that pictures of a slide have in common; 0: no slides.
        slides: How many, of unequal size.
    """

    settings: int = 9
    runs: int = 5
    pictures: int = 140
    accuracy: float = 0.95
    better: float = 0.0
    own: float = 0.1
    wander: float = 0.0
    slide: float = 0.0
    slides: int = 40

    def __str__(self) -> str:
        told = f"{self.settings} settings, {self.runs} x {self.pictures} pictures"
        told += f", accuracy {self.accuracy:g}"
        if self.better:
            told += f" and {self.accuracy + self.better:g}"
        told += f", own {self.own:g}" if self.own != World.own else ""
        told += f", runs stray {self.wander:g}" if self.wander else ""
        return told + (f", {self.slides} unequal slides ({self.slide:g})" if self.slide else "")


def simulate(
    world: World, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Who was right (settings, answers), what each answer is about, and its run."""
    n = world.runs * world.pictures
    runs = np.repeat(np.arange(world.runs), world.pictures)
    clusters = np.arange(n)
    hard = rng.standard_normal(n)
    if world.slide:
        clusters = rng.choice(world.slides, size=n, p=rng.dirichlet(np.full(world.slides, 3.0)))
        of_slide = rng.standard_normal(world.slides)[clusters]
        hard = np.sqrt(1 - world.slide) * hard + np.sqrt(world.slide) * of_slide
    own = rng.standard_normal((world.settings, n))
    moved = world.wander * rng.standard_normal((world.settings, world.runs))
    latent = np.sqrt(1 - world.own) * hard + np.sqrt(world.own) * own + moved[:, runs]
    accuracy = np.full(world.settings, world.accuracy)
    accuracy[0] += world.better
    limit = norm.ppf(1 - accuracy) * np.sqrt(1 + world.wander**2)
    return (latent > limit[:, None]).astype(np.float64), clusters, runs
