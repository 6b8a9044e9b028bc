"""Starting the processes that read images."""

from __future__ import annotations

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
