"""Checks of a model at the start."""

from __future__ import annotations

from functools import cache

from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.serving.engine.explain import encode_png

_SIDE = 112  # pixels of the drawn upload


@cache
def drawn_upload() -> bytes:
    """An encoded drawn smear, always the same."""
    return encode_png(draw_smear(CLASS_NAMES[0], slide=0, index=0, size=_SIDE))
