"""Exceptions that are reported as a single line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcd.errors import foreseen


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere" / "run"
    with pytest.raises(FileNotFoundError) as caught:
        folder.mkdir()
    known = foreseen(caught.value)
    told = "no folder can be made there: choose another one (hydra.run.dir=)"
    assert str(known) == f"{folder}: {told}"
    with pytest.raises(FileNotFoundError) as caught:
        folder.read_bytes()
    assert foreseen(caught.value) is None  # a defect of the program
