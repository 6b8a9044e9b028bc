"""A run that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcd.training.run import train
from tests.helpers.harness import SMALL, train_config


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    result = train(train_config(folder / "run", *SMALL, f"data.root={folder / 'in'}"))
    assert result is not None
    return folder / "run"
