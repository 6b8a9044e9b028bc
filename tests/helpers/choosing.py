"""Parameters of tests that `make test` leaves out and `make test-all` has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

# Networks that take long; of each kind there is a smaller one.
LARGE = (
    *("convnext_tiny", "densenet201", "efficientnet_v2_s", "inception_v3", "resnet50"),
    "vit_b_16",
)


def exhaustive_if(choose: Callable[[Any], bool], values: Iterable[Any]) -> list[Any]:
    """Values for `parametrize`; those that are chosen have the mark `exhaustive`.

    They take long, and their like are among the others.
    """
    return [pytest.param(v, marks=pytest.mark.exhaustive) if choose(v) else v for v in values]
