"""Galleries as HTML: structure, escaping, and the size of embedded images."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.reporting.document import Section, write_html, write_markdown
from bcd.reporting.gallery import SIDE, Card, Gallery, Picture, gallery_html

NAME = "a<b>\"&'$x$.png"


class Elements(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def ramp(height: int, width: int) -> NDArray[np.uint8]:
    """Red grows to the right, green downwards."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width).astype(np.uint8)
    pixels[:, :, 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return pixels


def shown(image: dict[str, str | None]) -> NDArray[np.uint8]:
    kind, _, data = (image["src"] or "").partition(",")
    assert kind == "data:image/jpeg;base64"
    code = np.frombuffer(base64.b64decode(data), np.uint8)
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1]


def test_names_are_escaped_and_read_back_unchanged() -> None:
    card = Card([Picture(ramp(8, 8), NAME)], [f"file {NAME}", "<script>"])
    page = Elements(gallery_html(Gallery([card])))
    tags = ["div", "figure", "div", "button", "img", "figcaption", "div", "div"]
    assert [tag for tag, _ in page.found] == tags
    (button,), (image,) = page.named("button"), page.named("img")
    assert button == {"type": "button", "class": "zoom", "aria-label": f"Enlarge: {NAME}"}
    assert (image["alt"], image["loading"]) == (NAME, "lazy")
    assert f"file {NAME}" in page.text and "<script>" in page.text


@pytest.mark.parametrize(
    ("given", "expected"),
    [((224, 200), (224, 200)), ((480, 640), (240, SIDE)), ((2000, 1), (SIDE, 1))],
)
def test_images_are_embedded_in_true_colours_and_at_most_so_large(
    given: tuple[int, int], expected: tuple[int, int]
) -> None:
    page = Elements(gallery_html(Gallery([Card([Picture(ramp(*given), "x")], [])])))
    pixels = shown(page.named("img")[0])
    assert pixels.shape == (*expected, 3)
    assert abs(pixels[:, :, 0].astype(float).mean() - ramp(*given)[:, :, 0].mean()) < 3
    assert abs(pixels[:, :, 2].astype(float).mean() - 40) < 3


def test_a_gallery_is_a_block_of_pages_and_left_out_of_markdown(tmp_path: Path) -> None:
    gallery = Gallery([Card([Picture(ramp(8, 8), "one"), Picture(ramp(8, 8), "two")], ["below"])])
    section = Section("Failures", ["before", gallery, Gallery([])])
    write_html(tmp_path / "page.html", "Report", [section])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2 and page.count("class=gallery") == 1
    write_markdown(tmp_path / "page.md", "Report", [section])
    written = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert written == "# Report\n\n## Failures\n\nbefore\n"
