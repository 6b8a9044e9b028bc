"""The pictures in docs/; `test_browser.py` tests that they can be made."""

from __future__ import annotations

from PIL import Image

from bench.serve_screenshots import LARGEST, PICTURES
from tests.helpers.harness import ROOT


def test_the_pictures_in_docs_are_those() -> None:
    for name, _, width, height, _ in PICTURES:
        file = ROOT / "docs" / f"{name}.png"
        assert file.stat().st_size < LARGEST
        with Image.open(file) as opened:
            assert opened.size == (width, height)
