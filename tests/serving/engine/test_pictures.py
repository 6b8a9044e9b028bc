"""Pictures of uploads: reduced, and with outlined cells."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bcd.data.cells.outlines import TILE, draw_outlines
from bcd.data.cells.segmentation import find_cells
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.serving.engine.queue import Engine
from bcd.serving.errors import UnprocessableError
from tests.serving.making import encoded, smear

ORIENTATION, COPYRIGHT = 0x0112, 0x8298


def opened(png: bytes) -> tuple[NDArray[np.uint8], dict[Any, Any]]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")), dict(image.info)


def test_a_thumbnail_is_small_upright_and_without_metadata(engine: Engine) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[COPYRIGHT] = 6, "Jane Doe"
    pixels = draw_smear("Pre-B", slide=0, index=0, size=160)[:80]
    data = encoded(pixels, "JPEG", exif=exif.tobytes(), quality=95)
    assert b"Jane" in data
    png = asyncio.run(engine.thumbnail(data, 40))
    found, info = opened(png)
    assert found.shape == (40, 20, 3) and info == {} and b"Jane" not in png
    expected = np.asarray(
        Image.fromarray(np.rot90(pixels, 3)).resize((20, 40), Image.Resampling.BOX)
    )
    assert np.abs(found.astype(int) - expected).mean() < 4
    small, _ = opened(asyncio.run(engine.thumbnail(smear(0), 1000)))
    assert (small == draw_smear(CLASS_NAMES[0], slide=0, index=0, size=len(small))).all()


def test_white_cells_are_outlined(engine: Engine) -> None:
    pixels = draw_smear("Pro-B", slide=1, index=2, size=224)
    found, _ = opened(asyncio.run(engine.outlined(encoded(pixels))))
    cells = find_cells(pixels)
    assert cells.count > 0
    assert (found == draw_outlines(pixels, cells)).all()
    assert max(found.shape) == TILE


@pytest.mark.parametrize("data", [b"", b"no image", smear(0)[:500]])
def test_what_is_no_image_has_no_picture(data: bytes, engine: Engine) -> None:
    for picture in (engine.thumbnail(data, 64), engine.outlined(data), engine.explain(data)):
        with pytest.raises(UnprocessableError):
            asyncio.run(picture)
    assert engine.waiting == 0


def test_an_image_that_is_too_small_for_cells_is_refused(engine: Engine) -> None:
    with pytest.raises(UnprocessableError, match="too small to find cells"):
        asyncio.run(engine.outlined(encoded(np.full((8, 8, 3), 200, np.uint8))))
