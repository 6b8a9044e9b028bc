"""Keypoints: local features by which two images of one field are registered.

SIFT (Lowe, Int J Comput Vis 2004;60:91) on a small grey version of each image. Positions are in
shares of the image's longer side, so images of any size can be compared. Descriptors are compressed
by a principal component analysis (as PCA-SIFT; Ke and Sukthankar, CVPR 2004) whose axes are even or
odd under mirroring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.parallel import kept_or_read
from bcd.data.reading import BAR_HEIGHT, BAR_WIDTH, read_verified
from bcd.data.workspace import Workspace

MOST = 128  # keypoints per image, the strongest
VIEW = 64  # longer side, in pixels, of the grey version that overlaps are correlated on

_SIDE = 112  # longer side, in pixels, on which keypoints are searched for; SIFT doubles it
_CONTRAST, _EDGE, _SIGMA = 0.01, 12.0, 1.6  # of SIFT
_FAINT = 16  # grey values between the darkest and the brightest; a smaller range is not stretched
_LENGTH = 32  # numbers per descriptor after compression
_SAMPLE = 20_000  # descriptors on which the compression is fitted
_CHUNK = 1024


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of n images, at most k each, padded with zeros.

    Attributes:
        count: Keypoints of each image, (n,).
        place: x + iy in shares of the longer side, complex64 (n, k).
        angle: Orientation in radians, float32 (n, k).
        descriptors: Of length 1, float16 (n, k, 32).
        mirror: Sign of each number of a descriptor under mirroring, (32,).
        extent: Width and height in shares of the longer side, float32 (n, 2).
        views: Grey versions, uint8 (n, 64, 64), the image in the top left.
    """

    count: NDArray[np.int64]
    place: NDArray[np.complex64]
    angle: NDArray[np.float32]
    descriptors: NDArray[np.float16]
    mirror: NDArray[np.float32]
    extent: NDArray[np.float32]
    views: NDArray[np.uint8]


# The keypoints of one image: how many there are, and the fields of `describe_image`.
ROW = np.dtype(
    [
        ("count", np.int64),
        ("place", np.complex64, (MOST,)),
        ("angle", np.float32, (MOST,)),
        ("descriptors", np.uint8, (MOST, 128)),
        ("extent", np.float32, (2,)),
        ("view", np.uint8, (VIEW, VIEW)),
    ]
)
PART = "keypoints"  # name of a row in a workspace


def find_keypoints(
    files: Mapping[str, Path], small: bool, kept: Workspace | None = None
) -> Keypoints:
    """Finds the keypoints of each image, given by its sha256, in order.

    Args:
        files: The images.
        small: Whether every image is small (`bcd.data.parallel`).
        kept: Rows that the scan found.

    Raises:
        BcdError: An image has changed or is missing.
    """
    n = len(files)
    count = np.zeros(n, np.int64)
    place, angle = np.zeros((n, MOST), np.complex64), np.zeros((n, MOST), np.float32)
    raw = np.zeros((n, MOST, 128), np.uint8)
    extent, views = np.zeros((n, 2), np.float32), np.zeros((n, VIEW, VIEW), np.uint8)
    columns: tuple[NDArray[Any], ...] = (count, place, angle, raw, extent, views)

    for number, row in kept_or_read(_read, files, PART, kept, small, "Finding keypoints"):
        for name, column in zip(ROW.names or (), columns, strict=True):
            column[number] = row[name]
    k = max(int(count.max(initial=0)), 1)
    descriptors, mirror = _compressed(raw[:, :k], count)
    return Keypoints(
        count, place[:, :k].copy(), angle[:, :k].copy(), descriptors, mirror, extent, views
    )


def _read(file: tuple[Path, str]) -> NDArray[Any]:
    return keypoint_row(read_verified(*file).pixels)


def keypoint_row(image: NDArray[np.uint8]) -> NDArray[Any]:
    """Finds the keypoints of one image (height, width, 3); returns a row of type `ROW`."""
    row: NDArray[Any] = np.zeros((), ROW)
    place, angle, descriptors, extent, view = describe_image(image)
    k = len(place)
    row["count"], row["extent"], row["view"] = k, extent, view
    row["place"][:k], row["angle"][:k], row["descriptors"][:k] = place, angle, descriptors
    return row


def describe_image(image: NDArray[np.uint8]) -> tuple[NDArray[np.generic], ...]:
    """Places (k,), angles (k,), SIFT descriptors (k, 128), extent (2,) and view (64, 64)."""
    grey = _stretched(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8))
    height, width = grey.shape
    longer = max(height, width)
    extent = np.asarray((width / longer, height / longer), np.float32)
    view = np.zeros((VIEW, VIEW), np.uint8)
    small = _resized(grey, VIEW / longer)
    view[: small.shape[0], : small.shape[1]] = small
    grey = _resized(grey, min(1.0, _SIDE / longer))
    shown = np.full(grey.shape, 255, np.uint8)
    # A scale bar looks the same in all images, so its corner is masked in all of them.
    bar = round(BAR_HEIGHT * grey.shape[0]), round(BAR_WIDTH * grey.shape[1])
    shown[grey.shape[0] - bar[0] :, grey.shape[1] - bar[1] :] = 0
    # An instance holds buffers, so threads cannot share one; creating it is cheap.
    sift = cv2.SIFT.create(MOST, 3, _CONTRAST, _EDGE, _SIGMA)
    points, descriptors = sift.detectAndCompute(grey, shown)
    if descriptors is None or not len(points):
        none = np.zeros(0, np.complex64), np.zeros(0, np.float32), np.zeros((0, 128), np.uint8)
        return *none, extent, view
    descriptors, points = descriptors[:MOST], points[:MOST]
    scale = 1 / max(grey.shape)
    place = np.asarray([complex(*p.pt) for p in points], np.complex64) * np.float32(scale)
    angle = np.deg2rad(np.asarray([p.angle for p in points], np.float32))
    return place, angle, descriptors.astype(np.uint8), extent, view


def _stretched(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stretches the grey values between the 1 % and 99 % quantiles, to compensate for exposure."""
    low, high = np.percentile(grey[::4, ::4], (1, 99))
    values = (np.arange(256) - low) * (255 / max(high - low, _FAINT))
    return np.asarray(cv2.LUT(grey, values.clip(0, 255).astype(np.uint8)), np.uint8)


def _resized(grey: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, size, interpolation=how), np.uint8)


# Permutation of the 4 x 4 x 8 numbers of a descriptor when the image is mirrored: SIFT's rows lie
# across the keypoint's orientation, and its angles are measured from it.
_MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


def _compressed(
    raw: NDArray[np.uint8], count: NDArray[np.int64]
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Descriptors (n, k, 32) of length 1, and the sign of each number under mirroring.

    The sample holds each descriptor and its mirror image, so principal axes are even or odd under
    mirroring: mirroring a descriptor only changes the sign of some of its numbers.
    """
    n, k, _ = raw.shape
    there = np.arange(k) < count[:, None]
    flat = np.flatnonzero(there)
    sample = _rooted(raw.reshape(-1, 128)[flat[:: max(1, len(flat) // _SAMPLE)]])
    mean, axes, mirror = _axes(sample)
    made = np.zeros((n, k, _LENGTH), np.float16)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        values = (_rooted(raw[part][there[part]]) - mean) @ axes
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
        made[part][there[part]] = values
    return made, mirror


def _rooted(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RootSIFT (Arandjelovic and Zisserman, CVPR 2012): large numbers weigh less in distances."""
    values = raw.astype(np.float32)
    values /= np.maximum(values.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.sqrt(values), np.float32)


def _axes(
    sample: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Mean (128,), principal axes (128, 32) and their signs under mirroring (32,)."""
    if not len(sample):
        sample = np.zeros((1, 128), np.float32)
    both = np.concatenate([sample, sample[:, _MIRROR]]).astype(np.float64)
    mean = both.mean(axis=0)
    covariance = (both - mean).T @ (both - mean)
    swap = np.eye(128)[_MIRROR]
    found: list[tuple[float, float, NDArray[np.float64]]] = []
    for sign in (1.0, -1.0):  # even and odd axes separately, so that each is exactly even or odd
        half = (np.eye(128) + sign * swap) / 2
        values, vectors = np.linalg.eigh(half @ covariance @ half)
        found += [(value, sign, axis) for value, axis in zip(values, vectors.T, strict=True)]
    found = sorted(found, key=lambda item: -item[0])[:_LENGTH]
    axes = np.stack([axis for _, _, axis in found], axis=1)
    mirror = np.asarray([sign for _, sign, _ in found], np.float32)
    return mean.astype(np.float32), axes.astype(np.float32), mirror
