"""The fixture that checks promises; measured rates are attached to the test's report."""

from __future__ import annotations

from typing import SupportsFloat

import pytest

from tests.promises.stating import Check, Promise, compare_rate


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Check:
    """Asserts that a promise holds; see `promises.stating.compare_rate`."""

    def checked(
        promise: Promise, case: str, measured: SupportsFloat, tolerance: float, draws: int
    ) -> None:
        row, holds = compare_rate(promise, case, float(measured), tolerance, draws)
        request.node.user_properties.append(("promise", list(row)))
        assert holds, row

    return checked
