"""The out-of-distribution detector: its subspace, its limit, and the share that it refers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.evaluation.ood import Subspace, fit_detector, fit_subspace

Floats = NDArray[np.float32]

_BASIS = np.linalg.qr(np.random.default_rng(99).normal(size=(160, 10)))[0].T


def own(n: int, seed: int, noise: float = 0.1, owners: NDArray[np.int64] | None = None) -> Floats:
    """Descriptors near a ten-dimensional subspace; each group has its own amount of noise."""
    rng = np.random.default_rng(seed)
    amount = np.full(n, noise)
    if owners is not None:
        amount = amount * rng.lognormal(0, 0.15, owners.max() + 1)[owners]
    made = rng.normal(0, 3, (n, 10)) @ _BASIS + rng.normal(size=(n, 160)) * amount[:, None]
    return np.asarray(made, np.float32)


def fitted(*given: object) -> Subspace:
    found = fit_detector(*given)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_the_subspace_is_deterministic_and_absent_without_descriptors() -> None:
    descriptors = own(600, 1)
    first, second = fit_subspace(descriptors), fit_subspace(descriptors)
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.basis, second.basis)
    np.testing.assert_allclose(first.basis @ first.basis.T, np.eye(len(first.basis)), atol=1e-4)
    assert np.median(first.distance(descriptors)) < 3  # the noise is 0.1 in 150 directions
    assert fit_subspace(np.zeros((0, 160), np.float32)) is None
    assert fit_subspace(np.zeros((40, 4), np.float32)) is None


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_share_of_independent_images_beyond_the_limit_is_as_requested(share: float) -> None:
    new = own(4000, 0)
    beyond = []
    for seed in range(1, 11):
        found = fitted(own(400, seed), share)
        beyond.append(float((found.distance(new) > found.limit).mean()))
    assert np.mean(beyond) == pytest.approx(share, abs=0.3 * share)


def test_whole_groups_are_left_out_so_that_the_limit_holds_for_new_ones() -> None:
    """Each group has a direction of its own, which a subspace knows only if it saw the group."""
    rng = np.random.default_rng(5)
    owners = np.repeat(np.arange(12), 30)
    directions = np.linalg.qr(rng.normal(size=(160, 12)))[0].T
    shifts = 3 * directions[owners] * rng.normal(1, 0.1, (360, 1))
    descriptors = (own(360, 6) + shifts).astype(np.float32)
    names = [f"slide {k}" for k in owners]
    grouped, apart = fitted(descriptors, 0.05, names), fitted(descriptors, 0.05)
    assert apart.limit < 2.5 < grouped.limit
    new = (own(300, 7) + 3 * np.linalg.qr(rng.normal(size=(160, 1)))[0].T).astype(np.float32)
    assert (apart.distance(new) > apart.limit).mean() > 0.9
    assert (grouped.distance(new) > grouped.limit).mean() < 0.2
    assert fit_detector(descriptors, 0.05, ["one"] * 360) is None


def test_without_a_share_nothing_is_out_of_distribution() -> None:
    found = fitted(own(100, 1), 0.0)
    assert found.limit == np.inf
    assert fit_detector(np.zeros((3, 160), np.float32), 0.02) is None
