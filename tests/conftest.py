"""Fixtures for all tests."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.figures import save_placeholders
from tests.helpers.sparing import draw_once, parse_once

HERE = Path(__file__).parent
# Folders of tests that train many small networks in this process and do not check figures. The
# programs that tests start in processes of their own draw all figures.
WITHOUT_FIGURES = (
    *("commands", "config", "data", "export", "features", "inference", "models", "slides"),
    *("sweeps", "training"),
)
# Files that take longest, the first ones first.
LONG = (
    *("release/test_release.py", "project/test_real.py", "training/test_configs.py"),
    *("training/test_distributed.py", "reporting/test_pages.py", "export/test_export.py"),
    *("cli/test_multirun.py", "audit/test_audit.py", "project/test_offline.py"),
    *("serving/outbox/test_sender.py", "serving/pages/test_browser.py"),
    *("serving/intake/test_process.py", "serving/jobs/test_cluster.py"),
    *("explain/test_networks.py", "training/test_failed_runs.py", "models/test_zoo.py"),
)
# Folders of which one worker runs all files, because these share what takes longest to make.
IN_ONE_WORKER = ("release",)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Any:
    """Gives a worker whole files as `--dist loadfile` does, and some folders as a whole."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Folders(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            folder = next((f for f in IN_ONE_WORKER if file.startswith(f"tests/{f}/")), None)
            return folder or file

    return Folders(config, log)


def pytest_collection_finish() -> None:
    """Spares later collections of garbage the million objects of what is imported by now."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the longest files first, so that no worker ends long after the others.

    Before Python 3.12, measuring coverage makes code slower. There it is measured for the first
    parameters of each test only, and not for simulations, which run the same lines again.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    places = {HERE / file: place for place, file in enumerate(LONG)}
    items.sort(key=lambda item: (places.get(item.path, len(LONG)), -slow[item.path]))
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
def sparing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draws small images once, but where drawing is tested; reads each file of `conf/` once."""
    with pytest.MonkeyPatch.context() as patch:
        parse_once(patch)
        if HERE / "data" / "synthetic" not in request.path.parents:
            draw_once(patch)
        yield


@pytest.fixture(scope="module", autouse=True)
def placeholder_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Saves an empty image for each figure of the tests of some folders."""
    folder = request.path.relative_to(HERE).parts[0]
    with pytest.MonkeyPatch.context() as patch:
        if folder in WITHOUT_FIGURES:
            save_placeholders(patch)
        yield
