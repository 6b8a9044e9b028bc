"""Releases that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.release.making import FROZEN, TRAINED, released


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("release")


@pytest.fixture(scope="session")
def frozen(base: Path) -> Path:
    folder, status, said = released(base, "frozen", *FROZEN, figures=True)
    assert status == 0, said
    return folder


@pytest.fixture(scope="session")
def trained(base: Path) -> Path:
    folder, status, said = released(
        base, "trained", *TRAINED, "curve=true", "tta=flips", figures=True
    )
    assert status == 0, said
    return folder
