"""Many small images are read in processes, others in threads, with the same results."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bcd.data import parallel
from bcd.data.parallel import read_each
from bcd.errors import BcdError

PATHS = [(Path(f"{number}.png"), f"{number:03}") for number in range(200)]


File = tuple[Path, str]


def where(file: File) -> tuple[Path, str, int]:
    return *file, os.getpid()


def refuse(file: File) -> str:
    path, sha256 = file
    if path.name == "150.png":
        raise BcdError(f"{path} has changed", 2)
    return sha256


def end(file: File) -> str:
    os._exit(9)


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_MANY", 100)


@pytest.mark.parametrize("small", [True, False])
def test_each_is_given_in_order(small: bool) -> None:
    found = list(read_each(where, PATHS, small, "Reading"))
    assert [(path, sha256) for path, sha256, _ in found] == PATHS
    others = {number for _, _, number in found} - {os.getpid()}
    forked = small and sys.platform == "linux" and (os.cpu_count() or 1) > 1
    assert bool(others) == forked


@pytest.mark.parametrize("small", [True, False])
def test_a_refusal_comes_through_with_its_status(small: bool) -> None:
    with pytest.raises(BcdError, match=r"150\.png has changed") as caught:
        list(read_each(refuse, PATHS, small, "Reading"))
    assert caught.value.status == 2


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_process_that_ends_is_reported() -> None:
    if (os.cpu_count() or 1) == 1:
        pytest.skip("one core reads in threads")
    with pytest.raises(BcdError, match="a process ended unexpectedly"):
        list(read_each(end, PATHS, True, "Reading"))
