"""Many small images are read in processes, others in threads, with the same results."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bcd.data import parallel
from bcd.data.parallel import read_each
from bcd.errors import BcdError

PATHS = {f"{number:03}": Path(f"{number}.png") for number in range(200)}


def where(path: Path, sha256: str) -> tuple[str, str, int]:
    return path.name, sha256, os.getpid()


def refuse(path: Path, sha256: str) -> str:
    if path.name == "150.png":
        raise BcdError(f"{path} has changed", 2)
    return sha256


def end(path: Path, sha256: str) -> str:
    os._exit(9)


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_MANY", 100)


@pytest.mark.parametrize("small", [True, False])
def test_each_is_given_in_order(small: bool) -> None:
    found = list(read_each(where, PATHS, small, "Reading"))
    assert [(name, sha256) for name, sha256, _ in found] == [(p.name, s) for s, p in PATHS.items()]
    others = {number for _, _, number in found} - {os.getpid()}
    forked = small and sys.platform == "linux" and (os.cpu_count() or 1) > 1
    assert bool(others) == forked


@pytest.mark.parametrize("small", [True, False])
def test_a_refusal_comes_through_with_its_status(small: bool) -> None:
    with pytest.raises(BcdError, match=r"150\.png has changed") as caught:
        list(read_each(refuse, PATHS, small, "Reading"))
    assert caught.value.status == 2


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_process_that_ends_is_told() -> None:
    if (os.cpu_count() or 1) == 1:
        pytest.skip("one core reads in threads")
    with pytest.raises(BcdError, match="a process ended early"):
        list(read_each(end, PATHS, True, "Reading"))
