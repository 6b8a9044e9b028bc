"""Files with several pictures, none of which is chosen silently."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from PIL import Image

from bcd.data.files import ImageError
from bcd.data.reading import decode_image
from tests.helpers import fuzzing
from tests.helpers.noise import noise


def _several(kind: str, count: int, **options: Any) -> bytes:
    """A file with several pictures of the same size."""
    first, *others = (Image.fromarray(noise(i)) for i in range(count))
    stream = io.BytesIO()
    first.save(stream, kind, save_all=True, append_images=others, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_files_with_several_pictures_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="holds 5 pictures"):
        decode_image(_several(kind, 5))
    decode_image(_several(kind, 1))


def test_many_pages_and_pages_in_a_circle_are_counted_at_once() -> None:
    with pytest.raises(ImageError, match="holds many pictures"):
        decode_image(_several("TIFF", 120))
    data = bytearray(fuzzing.encoded(noise(1), "TIFF"))
    (first,) = struct.unpack_from("<L", data, 4)
    (tags,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<L", data, first + 2 + 12 * tags, first)
    decode_image(bytes(data))


def test_previews_are_no_further_pictures() -> None:
    for kind in ("MPO", "TIFF"):
        data = _several(kind, 2, tiffinfo={254: 1})
        with Image.open(io.BytesIO(data)) as image:
            assert image.n_frames == 2  # type: ignore[attr-defined]
        assert decode_image(data).shape == noise(0).shape
