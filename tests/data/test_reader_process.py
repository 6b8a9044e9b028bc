"""Starting the processes that read images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from bcd.config.input_views import InputView
from bcd.data import reader_process
from bcd.data.items import Wanted
from bcd.data.sandbox import read_all
from tests.helpers.noise import noise, write_image


@pytest.mark.parametrize("pipe", [1 << 12, 1 << 20, 1 << 40])  # small, as usual, refused
def test_one_process_starts_early_and_reads_whatever_its_pipe(
    pipe: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_process, "_PIPE", pipe)
    reader_process.start_early()
    reader_process.start_early()
    (early,) = reader_process._EARLY
    files = [write_image(tmp_path / f"{i}.png", noise(i, size=200)) for i in range(3)]
    wanted = Wanted((InputView("plain", 320),), False)
    for (_, answer), file in zip(read_all(files, wanted, 1), files, strict=True):
        assert early.poll() is None
        np.testing.assert_array_equal(answer, wanted.read(file))
    assert reader_process._EARLY == []
    assert early.wait(20) != 0  # ended, as it is not needed any more


def test_a_reading_process_gets_no_secrets_and_writes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCD_RECORDS", "postgresql://bcd:password@database/bcd")
    look = (
        "import os; from bcd.data.reader import bound_memory; bound_memory(1 << 30); "
        f"file = open({str(tmp_path / 'file')!r}, 'wb', 0)\n"
        "try: file.write(b'x')\n"
        "except OSError: pass\n"
        "print(*os.environ)"
    )
    monkeypatch.setattr(reader_process, "_SERVE", look)
    process = reader_process.start_reader()
    with process:
        assert process.stdin is not None and process.stdout is not None
        names = process.stdout.read().decode().split()
    assert "PATH" in names and "BCD_RECORDS" not in names
    if sys.platform == "linux":
        assert (tmp_path / "file").stat().st_size == 0
