"""Registration: aligns two images by their keypoints and measures how well they agree.

Descriptors that are each other's nearest neighbours and pass the ratio test (Lowe, Int J Comput Vis
2004;60:91) give tentative matches. The similarity transform that most of them agree on is found as
in RANSAC (Fischler and Bolles, Commun ACM 1981;24:381), except that all pairs of the clearest
matches are tried instead of random ones. The images are then compared where they overlap by the
normalized cross-correlation of their pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.quality.keypoints import VIEW, Keypoints
from bcd.data.reading import BAR_HEIGHT, BAR_WIDTH

# Below either limit two images count as different fields. Chosen on generated fields and on pairs
# of real smears of different classes, which cannot show the same field (docs/statistics.md).
LEAST_INLIERS = 5
LEAST_SCORE = 0.7

_RATIO = 0.81  # of squared distances to the nearest and the second nearest descriptor
_STEPS = 24  # bins of orientation; matches of one rotation lie in three neighbouring bins
_BEST = 48  # number of clearest tentative matches that may propose a transform
_APART = 0.09  # shares of the side: two matches nearer than that determine no rotation
_NEAR = 0.022  # shares of the side: a match within this distance is an inlier
_SCALES = (0.75, 1.33)
_TURNED = 0.9  # cosine of the largest angle between a keypoint's and its image's rotation
_MANY = 10  # inliers from which an affine transform is fitted
_FINE, _COARSE = 0.57, 3.4  # pixels of a view: finer or coarser structures are not compared
_BAR, _SHOWN = 128, 255  # values of a mask


@dataclass(frozen=True)
class Registration:
    """How one image is aligned with another.

    Attributes:
        score: Correlation of both where they overlap, -1 to 1, after uneven light is removed.
        inliers: Number of matches that agree with the transform.
        dx: How far the second image's centre lies to the right of the first image's, in shares of
            the first image's longer side.
        dy: Likewise, downwards.
        overlap: Share of the first image's area that the second one shows.
        least: The smaller of `overlap` and the share of the second image's area that the first one
            shows.
    """

    score: float
    inliers: int
    dx: float
    dy: float
    overlap: float
    least: float

    @property
    def holds(self) -> bool:
        """Whether both images show the same field."""
        return self.inliers >= LEAST_INLIERS and self.score >= LEAST_SCORE


def register(
    points: Keypoints,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
) -> Iterator[tuple[int, Registration]]:
    """Registers pairs of images.

    Args:
        points: Of the images.
        first: Index of each pair's first image, (p,).
        second: Likewise, of its second.
        mirrored: Whether the first image is mirrored before it is aligned with the second, (p,).

    Yields:
        The position in `first` of each pair for which a transform was found, and that transform.
    """
    pair, a, b = _matches(points, first, second, mirrored)
    mirror = mirrored[pair]
    i, j = first[pair], second[pair]
    at, angle = points.place[i, a], points.angle[i, a]
    at = np.where(mirror, points.extent[i, 0] - np.conj(at), at).astype(np.complex64)
    angle = np.where(mirror, np.pi - angle, angle).astype(np.float32)
    to, turn = points.place[j, b], points.angle[j, b] - angle
    places, starts = np.unique(pair, return_index=True)
    ends = np.append(starts, len(pair))[1:]
    p, z = _proposals(at, to, turn, starts, ends)
    found = np.searchsorted(p, [starts, ends])
    for place, start, end, low, high in zip(places, starts, ends, *found, strict=True):
        if low == high:
            continue
        own = slice(start, end)
        laid = _transform(at[own], to[own], p[low:high] - start, z[low:high])
        if laid is not None:
            images = int(first[place]), int(second[place])
            yield int(place), _compared(points, *images, bool(mirrored[place]), *laid)


def _matches(
    points: Keypoints,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Tentative matches: position of the pair, ascending; keypoint in its first and second image.

    Pairs with fewer than `LEAST_INLIERS` matches of one rotation are left out. Of other pairs, the
    matches of that rotation are returned, the clearest first.
    """
    images, place = np.unique(first, return_inverse=True)  # many pairs share their first image
    k = max(1, int(points.count[[*images, *second]].max()))
    ours = points.descriptors[images, :k].astype(np.float32)[place]
    ours[mirrored] *= points.mirror
    alike = ours @ points.descriptors[second, :k].astype(np.float32).transpose(0, 2, 1)
    nearest = alike.argmax(axis=2)
    best = np.take_along_axis(alike, nearest[:, :, None], axis=2)[:, :, 0]
    # Finding the maximum of a column is much faster than finding its position.
    mutual = best == np.take_along_axis(alike.max(axis=1), nearest, axis=1)
    there = (np.arange(k) < points.count[first, None]) & (nearest < points.count[second, None])
    np.put_along_axis(alike, nearest[:, :, None], -2.0, axis=2)
    ratio = (1 - best) / np.maximum(1 - alike.max(axis=2), 1e-6)
    pair, a = np.nonzero(there & mutual & (ratio < _RATIO))
    b, clear = nearest[pair, a], ratio[pair, a]
    angle = np.where(mirrored[pair], np.pi - points.angle[first[pair], a], 0)
    angle = np.where(mirrored[pair], angle, points.angle[first[pair], a])
    turn = (points.angle[second[pair], b] - angle) % (2 * np.pi)
    step = np.minimum((turn * (_STEPS / (2 * np.pi))).astype(np.int64), _STEPS - 1)
    votes = np.bincount(pair * _STEPS + step, minlength=len(first) * _STEPS).reshape(-1, _STEPS)
    votes = votes + np.roll(votes, 1, axis=1) + np.roll(votes, -1, axis=1)
    off = (step - votes.argmax(axis=1)[pair] + _STEPS // 2) % _STEPS - _STEPS // 2
    kept = (np.abs(off) <= 1) & (votes.max(axis=1)[pair] >= LEAST_INLIERS)
    order = np.lexsort((clear[kept], pair[kept]))
    return pair[kept][order], a[kept][order], b[kept][order]


@cache
def _couples(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of `count` matches: the first of each pair, ascending, and the second."""
    return np.triu_indices(count, 1)


def _proposals(
    at: NDArray[np.complex64],
    to: NDArray[np.complex64],
    turn: NDArray[np.float32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.complex64]]:
    """The similarity transforms proposed by every two of the clearest matches of a pair of images.

    Matches of pair n are those from `starts[n]` to `ends[n]`. All combinations are tried, so the
    result is deterministic. They are computed for all pairs at once, because most pairs have none
    whose rotation and scale agree with those of their keypoints.

    Returns:
        The match that each proposal maps exactly, ascending, and rotation and scale as a complex
        number.
    """
    couples = [_couples(min(int(count), _BEST)) for count in ends - starts]
    if not couples:
        return np.zeros(0, np.int64), np.zeros(0, np.complex64)
    shifted = np.repeat(starts, [len(two[0]) for two in couples])
    p, q = (np.concatenate(ones) + shifted for ones in zip(*couples, strict=True))
    side = at[q] - at[p]
    far = np.abs(side) > _APART
    p, q, side = p[far], q[far], side[far]
    z = (to[q] - to[p]) / side
    size, around = np.abs(z), np.angle(z)
    kept = (size > _SCALES[0]) & (size < _SCALES[1])
    kept &= (np.cos(around - turn[p]) > _TURNED) & (np.cos(around - turn[q]) > _TURNED)
    return p[kept], z[kept]


def _transform(
    at: NDArray[np.complex64],
    to: NDArray[np.complex64],
    p: NDArray[np.int64],
    z: NDArray[np.complex64],
) -> tuple[NDArray[np.float64], int] | None:
    """The affine matrix (2, 3) with most inliers, and their number; None if there are too few.

    Args:
        at: Places of one pair's matches in the first image.
        to: Likewise, in the second.
        p: Match that each proposal maps exactly.
        z: Rotation and scale of each proposal.
    """
    agree = np.abs(z[:, None] * (at - at[p, None]) + to[p, None] - to) < _NEAR
    inside = agree[agree.sum(axis=1).argmax()]
    for _ in range(3):
        if inside.sum() < LEAST_INLIERS:
            return None
        middle, target = at[inside].mean(), to[inside].mean()
        arm = at[inside] - middle
        turned = np.vdot(arm, to[inside] - target) / np.vdot(arm, arm).real
        inside = np.abs(turned * (at - middle) + target - to) < _NEAR
    moved = target - turned * middle
    matrix = np.asarray(
        [[turned.real, -turned.imag, moved.real], [turned.imag, turned.real, moved.imag]]
    )
    if inside.sum() < LEAST_INLIERS:
        return None
    return _affine(at, to, inside) or (matrix, int(inside.sum()))


def _affine(
    at: NDArray[np.complex64], to: NDArray[np.complex64], inside: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], int] | None:
    """An affine matrix with more inliers: a copy may have another aspect ratio."""
    if inside.sum() < _MANY:
        return None
    start = int(inside.sum())
    rows = np.stack([at.real, at.imag, np.ones(len(at))], axis=1).astype(np.float64)
    target = np.stack([to.real, to.imag], axis=1).astype(np.float64)
    for _ in range(3):
        solved = np.linalg.lstsq(rows[inside], target[inside], rcond=None)[0]
        inside = np.linalg.norm(rows @ solved - target, axis=1) < _NEAR
        if inside.sum() < _MANY:
            return None
    scales = np.linalg.svd(solved[:2], compute_uv=False)
    if inside.sum() <= start or scales[0] > _SCALES[1] or scales[1] < _SCALES[0]:
        return None
    return np.asarray(solved.T, np.float64), int(inside.sum())


def _compared(
    points: Keypoints, i: int, j: int, mirror: bool, matrix: NDArray[np.float64], inliers: int
) -> Registration:
    """Correlates the images where they overlap; `matrix` maps the first to the second."""
    ours, own = _view(points, i)
    theirs, other = _view(points, j)
    if mirror:
        ours, own = np.ascontiguousarray(ours[:, ::-1]), np.ascontiguousarray(own[:, ::-1])
    turned = matrix[:, :2]
    # Pixel x of a view covers x / 64 to (x + 1) / 64 of the side.
    moved = VIEW * matrix[:, 2] + turned @ (0.5, 0.5) - 0.5
    inverse = np.concatenate([turned, moved[:, None]], axis=1)
    size, flags = (ours.shape[1], ours.shape[0]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(theirs, inverse, size, flags=flags)
    covered = cv2.warpAffine(other, inverse, size, flags=flags)
    mask = ((covered > (_BAR + _SHOWN) / 2) & (own == _SHOWN)).astype(np.float32)
    score = _correlation(ours, np.asarray(laid, np.uint8), mask)
    middle = np.linalg.solve(turned, points.extent[j] / 2 - matrix[:, 2]) - points.extent[i] / 2
    dx = -middle[0] if mirror else middle[0]
    overlap = float((covered > _BAR / 2).mean())
    area = points.extent.prod(axis=1)
    reverse = overlap * abs(np.linalg.det(turned)) * float(area[i] / area[j])
    return Registration(score, inliers, float(dx), float(middle[1]), overlap, min(overlap, reverse))


def _view(points: Keypoints, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image's view, and a mask of the pixels that show the field (not the scale bar)."""
    width, height = np.maximum(np.rint(VIEW * points.extent[index]).astype(int), 1)
    shown = np.full((height, width), _SHOWN, np.uint8)
    shown[height - round(BAR_HEIGHT * height) :, width - round(BAR_WIDTH * width) :] = _BAR
    return points.views[index][:height, :width], shown


def _correlation(
    first: NDArray[np.uint8], second: NDArray[np.uint8], mask: NDArray[np.float32]
) -> float:
    """Normalized cross-correlation after band-pass filtering, -1 to 1."""
    if mask.sum() < 2:
        return -1.0
    around = cv2.GaussianBlur(mask, (0, 0), _COARSE) + 1e-6
    a, b = (_band(image.astype(np.float32), mask, around) for image in (first, second))
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))


def _band(
    image: NDArray[np.float32], mask: NDArray[np.float32], around: NDArray[np.float32]
) -> NDArray[np.float32]:
    image = image * mask
    detail = (image - cv2.GaussianBlur(image, (0, 0), _COARSE) / around) * mask
    return np.asarray(cv2.GaussianBlur(detail, (0, 0), _FINE) * mask, np.float32)
