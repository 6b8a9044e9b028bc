"""The fixture by which promises are checked; what was measured travels with the test's report."""

from __future__ import annotations

from typing import SupportsFloat

import pytest

from tests.promises.stating import Check, Promise, policy


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Check:
    """Asserts that a promise holds; see `promises.stating.policy`."""

    def checked(
        promise: Promise, case: str, measured: SupportsFloat, tolerance: float, draws: int
    ) -> None:
        row, holds = policy(promise, case, float(measured), tolerance, draws)
        request.node.user_properties.append(("promise", list(row)))
        assert holds, row

    return checked
