"""Fixtures of the tests of slides."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.slide import write_slide
from tests.slides.making import MPP, Darkness, darkened


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcd.slides.run.load_model", lambda **_: Darkness())
    monkeypatch.setattr("bcd.slides.run.find_checkpoint", lambda _: Path(__file__))


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tiffslide")
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "slide.tif", darkened(2000), MPP)
    whole = (folder / "slide.tif").read_bytes()
    (folder / "cut off.tif").write_bytes(whole[: len(whole) // 2])
    write_slide(folder / "flat.tif", darkened(2000), MPP, levels=1)
    return folder
