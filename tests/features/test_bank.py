"""Banks on disk: whole or fixed, whoever kills, damages or shares them."""

from __future__ import annotations

import errno
import multiprocessing
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcd.errors import BcdError
from bcd.features import extract
from bcd.features.bank import all_banks, banks_dir
from bcd.features.extract import Extractor, Work
from bcd.features.shards import read_shards, write_shard
from tests.helpers.banking import (
    draw_images,
    fill,
    fill_in_another_process,
    make_source,
    small_network,
)
from tests.helpers.forking import CAN_FORK, forking

COUNT = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw_images(tmp_path / "in", COUNT)
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(extract, "_SHARD_IMAGES", 4)
    return tmp_path / "cache"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many features each extraction had to compute."""
    rows: list[int] = []
    run = Extractor.run

    def counted(self: Extractor, works: list[Work]) -> None:
        rows.append(sum(work.rows for work in works))
        run(self, works)

    monkeypatch.setattr(Extractor, "run", counted)
    return rows


def build(folder: Path, **options: Any) -> Any:
    from tests.helpers.banking import list_images

    network, model = small_network()
    return fill(make_source(folder, list_images(folder)), network, model, **options)


def content(cache: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(cache)): f.read_bytes()
        for f in sorted(cache.rglob("*"))
        if f.is_file() and f.suffix != ".lock"
    }


def shards() -> list[Path]:
    return sorted(banks_dir().rglob("*.npy"))


processes: Any = forking() if CAN_FORK else multiprocessing.get_context("spawn")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_killed_at_ten_moments_it_ends_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    def start(cache: Path) -> Any:
        arguments = (str(folder), str(cache), 0.1)
        process = processes.Process(target=fill_in_another_process, args=arguments)
        process.start()
        return process

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = start(whole)
    first.join()
    assert first.exitcode == 0
    moments, stopped = random.Random(0), 0
    for _ in range(10):
        process = start(killed)
        while process.is_alive() and not list(killed.rglob("*.lock")):
            time.sleep(0.01)
        process.join(moments.uniform(0.0, 0.2))
        stopped += process.is_alive()
        process.kill()
        process.join()
    assert stopped >= 5
    last = start(killed)
    last.join()
    assert last.exitcode == 0
    assert content(killed) == content(whole)
    assert len(content(whole)) > 10


def test_two_at_once_end_in_one_whole_bank(folder: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    pair = [
        processes.Process(target=fill_in_another_process, args=(str(folder), str(cache)))
        for cache in (alone, together, together)
    ]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0, 0]
    assert content(together) == content(alone)


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "json", "name", "swap"])
def test_a_damaged_shard_is_found_and_made_again(
    harm: str, folder: Path, own_cache: Path, computed: list[int]
) -> None:
    build(folder)
    before = content(own_cache)
    victim = shards()[2]
    data = bytearray(victim.read_bytes())
    note = victim.with_suffix(".json")
    if harm == "flip":
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif harm == "truncate":
        victim.write_bytes(data[: len(data) // 2])
    elif harm == "delete":
        victim.unlink()
    elif harm == "json":
        note.write_text(note.read_text()[:-20])
    elif harm == "name":
        note.write_text(note.read_text().replace('["', '["0', 1))
    else:
        shutil.copy(shards()[3], victim)
    build(folder)
    assert content(own_cache) == before
    assert len(computed) == 2
    assert 0 < computed[1] <= 12 < computed[0]


def test_a_full_disk_ends_in_one_line_and_the_next_run_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, computed: list[int]
) -> None:
    written: list[int] = []

    def full(*arguments: Any) -> Any:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(1)
        return write_shard(*arguments)

    monkeypatch.setattr(extract, "write_shard", full)
    with pytest.raises(BcdError, match=r"No space left.*continues where it stopped") as caught:
        build(folder)
    assert len(str(caught.value).splitlines()) == 1
    monkeypatch.setattr(extract, "write_shard", write_shard)
    build(folder)
    done = sum(len(s.images) * len(s.views) for s in _all_shards())
    assert computed[0] == done
    assert computed[1] == computed[0] - 2 * 4 * 3


def _all_shards() -> list[Any]:
    return [shard for bank in all_banks() for shard in read_shards(bank.folder)]


def test_too_little_room_is_said_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(BcdError, match=r"0 MB free.*BCD_CACHE"):
        build(folder)
    assert shards() == []


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken:
        shape, dtype = (1, 1, 2), np.dtype("float32")

    with pytest.raises((AttributeError, TypeError)):
        write_shard(tmp_path, ["a"], [0], Broken())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "file"))
    with pytest.raises(BcdError, match=r"cannot be written.*BCD_CACHE"):
        build(folder)


def test_rows_survive_being_unmapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bcd.features import bank

    cached = build(folder)
    kept = [cached[(i, 1)][0].clone() for i in range(COUNT // 2)]
    monkeypatch.setattr(bank, "_ROWS_BEFORE_UNMAPPING", 1)
    for i in range(COUNT // 2):
        assert cached[(i, 1)][0].equal(kept[i])
        assert cached._drawn[0]._mapped == {}
    shutil.rmtree(banks_dir())
    with pytest.raises(BcdError, match="was removed"):
        cached[(0, 0)]
