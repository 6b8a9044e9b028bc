"""A running app, and a watcher with a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.intake.following import MOST, Following
from tests.serving.running import Running, running


@pytest.fixture(scope="package")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running app, whose images are answered at once."""
    keys = ("jobs.poll_seconds=0.05", "limits.image_mb=0.2", f"limits.case_images={MOST}")
    with running(tmp_path_factory.mktemp("app"), *keys) as made:
        yield made


@pytest.fixture
def folder(app: Running, tmp_path: Path) -> Following:
    """A watcher of an empty folder."""
    return Following(app.app.state.services, tmp_path)
