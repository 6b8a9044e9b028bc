"""Galleries: cards of images with captions, embedded in a page as JPEG."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 320  # pixels of the longer side of an embedded image, at most
_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An image of a card.

    Attributes:
        pixels: RGB, uint8, shape (height, width, 3).
        caption: What the image shows; its text alternative too.
    """

    pixels: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True)
class Card:
    """Images that belong together, and lines of text below them."""

    pictures: Sequence[Picture]
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Cards in their order; nothing is written if there is none."""

    cards: Sequence[Card]


def gallery_html(gallery: Gallery) -> str:
    """The cards as HTML; each image is in a button, by which the page enlarges it.

    Images with a longer side of more than `SIDE` pixels are made smaller.

    Args:
        gallery: The cards.

    Returns:
        HTML in which all texts are escaped; empty if there is no card.
    """
    if not gallery.cards:
        return ""
    cards = "\n".join(_card(card) for card in gallery.cards)
    return f"<div class=gallery>\n{cards}\n</div>"


def _card(card: Card) -> str:
    pictures = "".join(_picture(picture) for picture in card.pictures)
    lines = "".join(f"<div>{html.escape(line)}</div>" for line in card.lines)
    return (
        f"<figure class=card><div class=pictures>{pictures}</div>"
        f"<figcaption>{lines}</figcaption></figure>"
    )


def _picture(picture: Picture) -> str:
    text = html.escape(picture.caption)
    data = base64.b64encode(_jpeg(picture.pixels)).decode()
    return (
        f'<button type=button class=zoom aria-label="Enlarge: {text}">'
        f'<img alt="{text}" loading=lazy src="data:image/jpeg;base64,{data}"></button>'
    )


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes an RGB image, reduced to `SIDE` pixels at most."""
    import cv2

    height, width = pixels.shape[:2]
    if max(height, width) > SIDE:
        scale = SIDE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return code.tobytes()
