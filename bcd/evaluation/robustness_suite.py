"""Shifts: the same pictures under other light, stain, focus, camera and storage, in known steps."""

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

from bcd.config.schema import AugmentConfig
from bcd.data.views import PLAIN, Augmenter, PictureViews
from bcd.errors import ConfigError
from bcd.evaluation import corruptions as distortions
from bcd.evaluation.corruptions import Pixels


@dataclass(frozen=True)
class Shift:
    """One change of a picture, in one strength.

    Attributes:
        kind: What is changed.
        strength_label: How much, with its unit; within a kind the order is that of `SUITES`.
        apply: Maps pixels, uint8 RGB (height, width, 3), and the picture's sha256 to new pixels of
            that shape. What it draws depends on the sha256 and the kind alone: at another strength
            the same picture has the same grain, direction and signs, only more of it.
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


def make_shift(kind: str, strength: float) -> Shift:
    """Makes a shift of a known kind in any strength.

    Args:
        kind: One of `KINDS`.
        strength: In the unit of the kind.
    """
    change, label = KINDS[kind]
    apply = partial(_fixed, change, strength)
    if kind in _DRAWN:
        apply = partial(_drawn, change, strength, kind)
    return Shift(kind, label.format(strength), apply)


KINDS: dict[str, tuple[Callable[..., Pixels], str]] = {
    "brightness": (distortions.brightness, "x {:g}"),
    "contrast": (distortions.contrast, "x {:g}"),
    "saturation": (distortions.saturation, "x {:g}"),
    "hue": (distortions.hue, "{:+g}°"),
    "grey": (distortions.saturation, "full"),
    "stain": (distortions.stain, "{:.0%}"),
    "HED jitter": (distortions.hed_jitter, "{:g}"),
    "white balance": (distortions.white_balance, "{:g} K"),
    "defocus": (distortions.defocus, "{:g} px"),
    "gaussian blur": (distortions.gaussian_blur, "5x5, sd {:g}"),
    "motion blur": (distortions.motion_blur, "{:g} px"),
    "jpeg": (distortions.jpeg, "quality {:g}"),
    "noise": (distortions.noise, "sd {:g}"),
    "pixelation": (distortions.pixelation, "{:g} px"),
    "zoom": (distortions.zoom, "x {:g}"),
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


def _suite(strengths: dict[str, tuple[float, ...]]) -> tuple[Shift, ...]:
    return tuple(
        make_shift(kind, strength) for kind, all_ in strengths.items() for strength in all_
    )


SUITES: dict[str, tuple[Shift, ...]] = {"standard": _suite(_STANDARD), "brief": _suite(_BRIEF)}
"""Shifts by the name of their suite.

`brief` has nine shifts, by which recipes are compared.

`standard` has 40 shifts of 14 kinds: on 700 pictures 28 700 passes of the network, the plain
ones counted, some three minutes at 150 a second; to shift the pictures takes ten seconds on a core.

Seven kinds are those that MedMNIST-C (Di Salvo et al., arXiv:2406.17536) does to BloodMNIST:
pixels, JPEG, defocus, motion, brightness, contrast, saturation (its bubbles and stain deposits are
not here). Hue, stain, white balance, noise and zoom are what slides and cameras differ in besides.
Lengths are in pixels of the network's input and begin at half of one, as a cell is some 23 wide.
"""


def shifts(name: str) -> tuple[Shift, ...]:
    """Returns the shifts of a suite, those of a kind side by side in the order of strength.

    Raises:
        ConfigError: There is no such suite.
    """
    from bcd.config.check import nearest

    if name not in SUITES:
        raise ConfigError(f"shift={name}: choose {', '.join(SUITES)}{nearest(name, SUITES)}")
    return SUITES[name]


class ShiftAugmenter(Augmenter):
    """Makes shifts as if they were views: view v of a picture is the picture under shift v.

    So they go through the feature bank as views do.

    Args:
        suite: Kinds and strengths, as `make_shift` takes them.
    """

    def __init__(self, suite: Sequence[tuple[str, float]]) -> None:
        named = [{"shift": kind, "strength": strength} for kind, strength in suite]
        super().__init__(AugmentConfig(len(named), named), 0)
        self.suite = [make_shift(kind, strength) for kind, strength in suite]

    def check(self) -> None:
        """There is nothing to check: the shifts are made already."""

    def __call__(self, picture: Pixels, sha256: str, view: int) -> Pixels:
        """Returns a picture under a shift, same shape (size, size, 3)."""
        return picture if view == PLAIN else self.suite[view].apply(picture, sha256)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


class ShiftedViews:
    """Pictures under all shifts, each decoded once; version 0 is the picture as it is.

    Args:
        views: Decodes the pictures.
        indices: Of the pictures wanted; a number counts in them.
        suite: The shifts.
    """

    def __init__(self, views: PictureViews, indices: Sequence[int], suite: Sequence[Shift]) -> None:
        self._views = views
        self._indices = list(indices)
        self._suite = tuple(suite)

    @property
    def versions(self) -> int:
        """How many inputs of the network a picture makes: one more than there are shifts."""
        return 1 + len(self._suite)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> tuple[Pixels, int]:
        """All versions of a picture, uint8 (versions, size, size, 3), and its label."""
        index = self._indices[number]
        picture, pixels = self._views.pictures[index], self._views.pixels(index)
        made = [pixels, *(shift.apply(pixels, picture.sha256) for shift in self._suite)]
        return np.stack(made), picture.label


def run_shifts(
    source: ShiftedViews,
    forward: Callable[[Pixels], NDArray[np.float32]],
    threads: int = 1,
    batch: int = 8,
    description: str = "",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Computes the answers to all versions of all pictures, several pictures at once.

    Args:
        source: The pictures and shifts.
        forward: Maps inputs uint8 (N, size, size, 3) to answers (N, k), such as logits; called
            from `threads` threads at once, as an engine allows.
        threads: How many pictures at once; with several, each call has one thread of torch.
        batch: Most inputs a call.
        description: Text beside the progress bar; no bar if empty.

    Returns:
        Answers (versions, pictures, k) and labels (pictures,).
    """
    from bcd.console import track

    def answer(number: int) -> tuple[NDArray[np.float32], int]:
        parts, label = source[number]
        starts = range(0, len(parts), batch)
        return np.concatenate([forward(parts[i : i + batch]) for i in starts]), label

    cv2.setNumThreads(0)  # the pictures fill the cores
    of_torch = torch.get_num_threads()
    share = (1 if threads > 1 else of_torch,)
    with ThreadPoolExecutor(threads, "shifts", torch.set_num_threads, share) as pool:
        try:
            done: Iterable[Any] = pool.map(answer, range(len(source)))
            done = track(done, description, len(source)) if description else done
            logits, labels = zip(*done, strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(of_torch)
    return np.stack(logits, axis=1), np.array(labels, dtype=np.int64)


def shift_table(
    suite: Sequence[Shift],
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    ece: Callable[[NDArray[np.floating[Any]], NDArray[np.int64]], float],
    refer: NDArray[np.bool_] | None = None,
) -> list[dict[str, Any]]:
    """Computes the figures of each shift, as `metrics.json` defines them.

    Args:
        suite: The shifts.
        probabilities: (1 + shifts, n, classes), the pictures as they are first.
        labels: (n,).
        ece: Expected calibration error of probabilities (n, classes) and labels (n,).
        refer: (1 + shifts, n): which answers go to a person; None where that is not decided. The
            figures are of all pictures, referred or not.

    Returns:
        A row for the pictures as they are (kind `none`) and one a shift, ready for JSON: kind,
        strength, accuracy, balanced_accuracy, ece, referred (share, None where not decided), n.
    """
    from bcd.evaluation.metrics import confusion, matrix_figures

    names = [("none", ""), *((shift.kind, shift.strength_label) for shift in suite)]
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
