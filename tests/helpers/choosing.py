"""Parameters of tests that `make test` leaves out and `make test-all` has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def exhaustive_if(choose: Callable[[Any], bool], values: Iterable[Any]) -> list[Any]:
    """Values for `parametrize`; those that are chosen have the mark `exhaustive`.

    They take long, and their like are among the others.
    """
    return [pytest.param(v, marks=pytest.mark.exhaustive) if choose(v) else v for v in values]
