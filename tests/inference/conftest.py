"""Fixtures of the tests of predicting."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.exported import make_exported


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its exported file, and images; see `make_exported`."""
    folder = tmp_path_factory.mktemp("exported")
    make_exported(folder)
    return folder
