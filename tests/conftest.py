"""Fixtures for all tests."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

# Folders of tests that train many small networks in this process and do not check figures. The
# programs that tests start in processes of their own draw all figures.
WITHOUT_FIGURES = ("commands", "features", "inference", "models", "slides", "training")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts files with the most slow tests first, so that no worker ends long after the others.

    Before Python 3.12, measuring coverage makes code slower. There it is measured for the first
    parameters of each test only, and not for simulations, which run the same lines again.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    if sys.version_info < (3, 12) and config.pluginmanager.hasplugin("_cov"):
        seen: Counter[str] = Counter()
        for item in items:
            name = item.nodeid.partition("[")[0]
            seen[name] += 1
            if seen[name] > 1 or "promises" in item.path.parts:
                item.add_marker("no_cover")


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps tests, and the programs they start, away from the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BCD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads, and on a busy machine threads wait for threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def placeholder_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Saves an empty image for each figure: drawing takes two fifths of the time of a small run."""
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    with pytest.MonkeyPatch.context() as patch:
        if folder in WITHOUT_FIGURES:
            patch.setattr("matplotlib.figure.Figure.savefig", _save_placeholder)
        yield


def _save_placeholder(_: object, stream: Any, **options: object) -> None:
    if options.get("format") == "svg":
        stream.write('<svg width="1pt" height="1pt" viewBox="0 0 1 1"><metadata></metadata></svg>')
        return
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(stream, "PNG")
