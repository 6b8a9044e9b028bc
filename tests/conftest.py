"""Fixtures for all tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with the most slow tests first, so that no worker ends long after the others."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


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
