"""Suites of corruptions with fixed kinds and strengths, and corruptions as augmentations.

The pixel operations are in `corruptions`; evaluating a network on a suite is in `robustness`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig
from bcd.data.views import PLAIN, Augmenter
from bcd.errors import ConfigError
from bcd.evaluation import corruptions
from bcd.evaluation.corruptions import Pixels


@dataclass(frozen=True)
class Corruption:
    """One corruption with one strength.

    Attributes:
        kind: One of `KINDS`.
        strength_label: The strength with its unit.
        apply: Maps pixels, uint8 RGB (height, width, 3), and the image's sha256 to new pixels of
            that shape. Random draws depend on the sha256 and the kind alone: at another strength
            the same image has the same noise, direction and signs, only stronger.
    """

    kind: str
    strength_label: str
    apply: Callable[[Pixels, str], Pixels]


def _apply(change: Callable[..., Pixels], strength: float, pixels: Pixels, _: str) -> Pixels:
    return change(pixels, strength)


def _apply_random(
    change: Callable[..., Pixels], strength: float, kind: str, pixels: Pixels, sha256: str
) -> Pixels:
    digest = hashlib.sha256(f"{kind} {sha256}".encode()).digest()
    sequence = np.random.SeedSequence(int.from_bytes(digest[:16], "little"))
    return change(pixels, strength, np.random.default_rng(sequence))


def make_corruption(kind: str, strength: float) -> Corruption:
    """Makes a corruption of a given kind and strength.

    Args:
        kind: One of `KINDS`.
        strength: In the unit of the kind.
    """
    change, label = KINDS[kind]
    apply = partial(_apply, change, strength)
    if kind in _RANDOM:
        apply = partial(_apply_random, change, strength, kind)
    return Corruption(kind, label.format(strength), apply)


KINDS: dict[str, tuple[Callable[..., Pixels], str]] = {
    "brightness": (corruptions.brightness, "x {:g}"),
    "contrast": (corruptions.contrast, "x {:g}"),
    "saturation": (corruptions.saturation, "x {:g}"),
    "hue": (corruptions.hue, "{:+g}°"),
    "grey": (corruptions.saturation, "full"),
    "stain": (corruptions.stain, "{:.0%}"),
    "HED jitter": (corruptions.hed_jitter, "{:g}"),
    "white balance": (corruptions.white_balance, "{:g} K"),
    "defocus": (corruptions.defocus, "{:g} px"),
    "gaussian blur": (corruptions.gaussian_blur, "5x5, sd {:g}"),
    "motion blur": (corruptions.motion_blur, "{:g} px"),
    "jpeg": (corruptions.jpeg, "quality {:g}"),
    "noise": (corruptions.noise, "sd {:g}"),
    "pixelation": (corruptions.pixelation, "{:g} px"),
    "zoom": (corruptions.zoom, "x {:g}"),
}
"""Function of each kind, and format of its strength."""

_RANDOM = ("stain", "HED jitter", "motion blur", "noise")

_STANDARD: dict[str, tuple[float, ...]] = {
    "brightness": (0.6, 0.8, 0.9, 1.1, 1.2, 1.4),
    "contrast": (0.7, 1.3),
    "saturation": (0.5, 1.5),
    "hue": (-30, -10, 10, 30),
    "grey": (0,),
    "stain": (0.05, 0.1, 0.2),
    "white balance": (5000, 9000),
    "defocus": (0.5, 1, 1.5, 2),
    "gaussian blur": (1.5,),
    "motion blur": (3, 9),
    "jpeg": (90, 50, 10),
    "noise": (0.02, 0.05, 0.1),
    "pixelation": (1.5, 2, 4),
    "zoom": (0.8, 0.9, 1.1, 1.25),
}

_BRIEF: dict[str, tuple[float, ...]] = {
    "grey": (0,),
    "hue": (-20, 20),
    "brightness": (0.8, 1.2),
    "gaussian blur": (1.5,),
    "jpeg": (30,),
    "HED jitter": (0.1, 0.2),
}


def _suite(strengths: dict[str, tuple[float, ...]]) -> tuple[Corruption, ...]:
    return tuple(
        make_corruption(kind, strength) for kind, all_ in strengths.items() for strength in all_
    )


SUITES: dict[str, tuple[Corruption, ...]] = {"standard": _suite(_STANDARD), "brief": _suite(_BRIEF)}
"""Corruptions by the name of their suite.

`brief` has nine corruptions; it is used to compare training recipes.

`standard` has 40 corruptions of 14 kinds. For 700 images this means 28 700 forward passes,
uncorrupted images included, or about three minutes at 150 images per second; corrupting the images
takes ten seconds on one core.

Seven kinds are those that MedMNIST-C (Di Salvo et al., arXiv:2406.17536) applies to BloodMNIST:
pixelation, JPEG, defocus, motion blur, brightness, contrast and saturation (its bubbles and stain
deposits are not included). Hue, stain, white balance, noise and zoom are further differences
between slides and cameras. Lengths are in pixels of the network's input and start at half a pixel,
as a cell is about 23 pixels wide.
"""


def corruption_suite(name: str) -> tuple[Corruption, ...]:
    """Returns the corruptions of a suite, grouped by kind and in order of strength.

    Raises:
        ConfigError: There is no such suite.
    """
    from bcd.config.check import nearest

    if name not in SUITES:
        raise ConfigError(f"corruptions={name}: choose {', '.join(SUITES)}{nearest(name, SUITES)}")
    return SUITES[name]


class CorruptionAugmenter(Augmenter):
    """Presents corruptions as augmented views: view v of an image is the image under corruption v.

    This lets the feature bank cache them as it does views.

    Args:
        suite: Kinds and strengths, as for `make_corruption`.
    """

    before_roi = True

    def __init__(self, suite: Sequence[tuple[str, float]]) -> None:
        named = [{"corruption": kind, "strength": strength} for kind, strength in suite]
        super().__init__(with_defaults(AugmentConfig, views=len(named), transforms=named), 0)
        self.suite = [make_corruption(kind, strength) for kind, strength in suite]

    def check(self) -> None:
        """Does nothing: the corruptions exist already."""

    def __call__(self, image: Pixels, sha256: str, view: int) -> Pixels:
        """Returns an image under a corruption, same shape (size, size, 3)."""
        return image if view == PLAIN else self.suite[view].apply(image, sha256)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)
