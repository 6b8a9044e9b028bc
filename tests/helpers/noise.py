"""Images of coloured noise in class folders, and catalogs without files: quick to make."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcd.data.catalog import Catalog, ImageRecord

FOUR = ("Benign", "Early", "Pre", "Pro")


def noise(seed: int, tint: int = 0, size: int = 40) -> NDArray[np.uint8]:
    """RGB noise, shape (size, size, 3), with one colour stronger than the others."""
    pixels = np.random.default_rng([seed, tint]).integers(0, 120, (size, size, 3))
    pixels[..., tint % 3] += 60 + 30 * (tint // 3 % 3)
    return pixels.astype(np.uint8)


def write_image(file: Path, pixels: NDArray[np.uint8]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def write_classes(
    root: Path,
    classes: Sequence[str] | Mapping[str, int] = FOUR,
    count: int = 3,
    suffix: str = ".png",
    size: int = 40,
) -> Path:
    """Writes `count` images into a folder per class, each class with its own tint."""
    counts = classes if isinstance(classes, Mapping) else dict.fromkeys(classes, count)
    for tint, (name, number) in enumerate(counts.items()):
        for i in range(number):
            write_image(root / name / f"{i:03d}{suffix}", noise(i, tint, size))
    return root


def made_up_catalog(counts: Sequence[int], groups: Sequence[str] | None = None) -> Catalog:
    """A catalog with so many images of each class, none of which is on the disk."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    images = tuple(
        ImageRecord(
            path=f"class{label}/{i:04d}.png",
            label=label,
            sha256=hashlib.sha256(str(i).encode()).hexdigest(),
            width=40,
            height=40,
            group=groups[i] if groups else "",
        )
        for i, label in enumerate(labels)
    )
    names = tuple(f"class{label}" for label in range(len(counts)))
    return Catalog(Path("/nowhere"), names, 0, images, ())
