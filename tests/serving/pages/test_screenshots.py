"""The pictures in docs/ can be made again."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bench.serve_screenshots import LARGEST, PICTURES, take_pictures
from tests.helpers.harness import ROOT
from tests.helpers.pages import BROWSER, chromium
from tests.serving.pages.browsing import listening
from tests.serving.running import ALL, PASSWORD, Running


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_screenshots_can_be_made(served: Running, tmp_path: Path) -> None:
    with listening(served.app) as url, chromium() as browser:
        files = take_pictures(browser, url, ALL, PASSWORD, tmp_path)
    assert [file.stem for file in files] == [name for name, *_ in PICTURES]
    for file, (_, _, width, height, _) in zip(files, PICTURES, strict=True):
        with Image.open(file) as opened:
            assert opened.size == (width, height)
            assert len(opened.convert("RGB").getcolors(1 << 20) or []) > 50  # not blank


def test_the_pictures_in_docs_are_those() -> None:
    for name, _, width, height, _ in PICTURES:
        file = ROOT / "docs" / f"{name}.png"
        assert file.stat().st_size < LARGEST
        with Image.open(file) as opened:
            assert opened.size == (width, height)
