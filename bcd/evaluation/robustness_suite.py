"""Suites of corruptions: light, stain, focus, camera and file quality, in known strengths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.errors import ConfigError
from bcd.evaluation import corruptions
from bcd.evaluation.corruptions import Pixels


@dataclass(frozen=True)
class Corruption:
    """One change of an image, in one strength.

    Attributes:
        kind: What is changed.
        strength_label: How much, with its unit; within a kind the order is that of `SUITES`.
        apply: Maps pixels, uint8 RGB (height, width, 3), and the image's sha256 to new pixels of
            that shape. What it draws depends on the sha256 and the kind alone: at another strength
            the same image has the same grain, direction and signs, only more of it.
    """

    kind: str
    strength_label: str
    apply: Callable[[Pixels, str], Pixels]


def _fixed(change: Callable[..., Pixels], strength: float, pixels: Pixels, _: str) -> Pixels:
    return change(pixels, strength)


def _drawn(
    change: Callable[..., Pixels], strength: float, kind: str, pixels: Pixels, sha256: str
) -> Pixels:
    digest = hashlib.sha256(f"{kind} {sha256}".encode()).digest()
    sequence = np.random.SeedSequence(int.from_bytes(digest[:16], "little"))
    return change(pixels, strength, np.random.default_rng(sequence))


def make_corruption(kind: str, strength: float) -> Corruption:
    """Makes a corruption of a known kind in any strength.

    Args:
        kind: One of `KINDS`.
        strength: In the unit of the kind.
    """
    change, label = KINDS[kind]
    apply = partial(_fixed, change, strength)
    if kind in _DRAWN:
        apply = partial(_drawn, change, strength, kind)
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
"""How each kind changes pixels, and how a strength of it is written."""

_DRAWN = ("stain", "HED jitter", "motion blur", "noise")

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

`brief` has nine corruptions, by which recipes are compared.

`standard` has 40 corruptions of 14 kinds: on 700 images 28 700 passes of the network, the plain
ones counted, some three minutes at 150 a second; to corruption the images takes ten seconds on a
core.

Seven kinds are those that MedMNIST-C (Di Salvo et al., arXiv:2406.17536) does to BloodMNIST:
pixels, JPEG, defocus, motion, brightness, contrast, saturation (its bubbles and stain deposits are
not here). Hue, stain, white balance, noise and zoom are what slides and cameras differ in besides.
Lengths are in pixels of the network's input and begin at half of one, as a cell is some 23 wide.
"""


def corruption_suite(name: str) -> tuple[Corruption, ...]:
    """Returns the corruptions of a suite, those of a kind side by side in the order of strength.

    Raises:
        ConfigError: There is no such suite.
    """
    from bcd.config.check import nearest

    if name not in SUITES:
        raise ConfigError(f"corruption={name}: choose {', '.join(SUITES)}{nearest(name, SUITES)}")
    return SUITES[name]


class CorruptionAugmenter(Augmenter):
    """Makes corruptions as if they were views: view v of an image is the image under corruption v.

    So they go through the feature bank as views do.

    Args:
        suite: Kinds and strengths, as `make_corruption` takes them.
    """

    def __init__(self, suite: Sequence[tuple[str, float]]) -> None:
        named = [{"corruption": kind, "strength": strength} for kind, strength in suite]
        super().__init__(with_defaults(AugmentConfig, views=len(named), transforms=named), 0)
        self.suite = [make_corruption(kind, strength) for kind, strength in suite]

    def check(self) -> None:
        """There is nothing to check: the corruptions are made already."""

    def __call__(self, image: Pixels, sha256: str, view: int) -> Pixels:
        """Returns an image under a corruption, same shape (size, size, 3)."""
        return image if view == PLAIN else self.suite[view].apply(image, sha256)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


class CorruptedViews:
    """Images under all corruptions, each decoded once; version 0 is the image as it is.

    Args:
        views: Decodes the images.
        indices: Of the images wanted; a number counts in them.
        suite: The corruptions.
    """

    def __init__(
        self, views: ImageViews, indices: Sequence[int], suite: Sequence[Corruption]
    ) -> None:
        self._views = views
        self._indices = list(indices)
        self._suite = tuple(suite)

    @property
    def versions(self) -> int:
        """How many inputs of the network an image makes: one more than there are corruptions."""
        return 1 + len(self._suite)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> tuple[Pixels, int]:
        """All versions of an image, uint8 (versions, size, size, 3), and its label."""
        index = self._indices[number]
        image, pixels = self._views.images[index], self._views.pixels(index)
        made = [pixels, *(corruption.apply(pixels, image.sha256) for corruption in self._suite)]
        return np.stack(made), image.label


def run_corruptions(
    source: CorruptedViews,
    forward: Callable[[Pixels], NDArray[np.float32]],
    threads: int = 1,
    batch: int = 8,
    description: str = "",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Computes the answers to all versions of all images, several images at once.

    Args:
        source: The images and corruptions.
        forward: Maps inputs uint8 (N, size, size, 3) to answers (N, k), such as logits; called
            from `threads` threads at once, as an engine allows.
        threads: How many images at once; with several, each call has one thread of torch.
        batch: Most inputs a call.
        description: Text beside the progress bar; no bar if empty.

    Returns:
        Answers (versions, images, k) and labels (images,).
    """
    from bcd.console import track

    def answer(number: int) -> tuple[NDArray[np.float32], int]:
        parts, label = source[number]
        starts = range(0, len(parts), batch)
        return np.concatenate([forward(parts[i : i + batch]) for i in starts]), label

    cv2.setNumThreads(0)  # the images fill the cores
    of_torch = torch.get_num_threads()
    share = (1 if threads > 1 else of_torch,)
    with ThreadPoolExecutor(threads, "corruptions", torch.set_num_threads, share) as pool:
        try:
            done: Iterable[Any] = pool.map(answer, range(len(source)))
            done = track(done, description, len(source)) if description else done
            logits, labels = zip(*done, strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(of_torch)
    return np.stack(logits, axis=1), np.array(labels, dtype=np.int64)


def robustness_table(
    suite: Sequence[Corruption],
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    ece: Callable[[NDArray[np.floating[Any]], NDArray[np.int64]], float],
    refer: NDArray[np.bool_] | None = None,
) -> list[dict[str, Any]]:
    """Computes the figures of each corruption, as `metrics.json` defines them.

    Args:
        suite: The corruptions.
        probabilities: (1 + corruptions, n, classes), the images as they are first.
        labels: (n,).
        ece: Expected calibration error of probabilities (n, classes) and labels (n,).
        refer: (1 + corruptions, n): which answers go to a person; None where that is not decided.
            The figures are of all images, referred or not.

    Returns:
        A row for the images as they are (kind `none`) and one a corruption, ready for JSON: kind,
        strength, accuracy, balanced_accuracy, ece, referred (share, None where not decided), n.
    """
    from bcd.evaluation.metrics import confusion, matrix_figures

    names = [("none", ""), *((corruption.kind, corruption.strength_label) for corruption in suite)]
    rows: list[dict[str, Any]] = []
    for number, ((kind, strength), values) in enumerate(zip(names, probabilities, strict=True)):
        matrix = confusion(labels, values.argmax(axis=1), values.shape[1])
        figures = matrix_figures(matrix)
        rows.append(
            {
                "kind": kind,
                "strength": strength,
                "accuracy": float(figures["accuracy"]),
                "balanced_accuracy": float(figures["balanced_accuracy"]),
                "ece": float(ece(values, labels)),
                "referred": None if refer is None else float(refer[number].mean()),
                "n": len(labels),
            }
        )
    return rows
