"""A server that listens, a browser, and images for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.pages import chromium
from tests.serving.making import no_smear, smear
from tests.serving.pages.browsing import listening
from tests.serving.running import Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def url(served: Running) -> Iterator[str]:
    """Address of the server."""
    with listening(served.app) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three smears, and one image that is none."""
    folder = tmp_path_factory.mktemp("images")
    files = {"one.png": smear(0), "two.png": smear(2), "three.png": smear(3), "x.png": no_smear()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]
