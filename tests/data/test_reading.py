from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from bcd.data.files import SUFFIXES, ImageError, UnreadableError, read_bytes
from bcd.data.frames import DICOM_SUFFIXES
from bcd.data.reading import decode, decode_image, read_image
from tests.helpers.noise import noise, write_image

Pixels = NDArray[np.uint8]
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP"} | {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
COLOURS: Pixels = noise(seed=1)
# Smooth, so that lossy formats stay close; every corner has a colour of its own.
SMOOTH: Pixels = np.stack(
    [*np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48)), np.full((48, 64), 40.0)], -1
).astype(np.uint8)


def encode(image: Image.Image | Pixels, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def refusals(data: bytes, min_size: int = 1) -> tuple[str, str]:
    """Why reading and why checking refuse; fails if one of them accepts."""
    with pytest.raises(ImageError) as reading:
        decode_image(data, min_size)
    with pytest.raises(ImageError) as checking:
        decode(data, min_size)
    return str(reading.value), str(checking.value)


def distance(left: Pixels, right: Pixels) -> float:
    return float(np.abs(left.astype(float) - right.astype(float)).mean())


def on_white(rgba: Image.Image) -> NDArray[np.float64]:
    pixels = np.asarray(rgba.convert("RGBA"), dtype=np.float64)
    alpha = pixels[..., 3:] / 255
    return np.asarray(pixels[..., :3] * alpha + 255 * (1 - alpha))


def sixteen_bits() -> NDArray[np.uint16]:
    return np.linspace(0, 0xFFFF, 48 * 64).reshape(48, 64).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_lossless_rgb_comes_back_pixel_for_pixel_in_rgb_order(suffix: str, tmp_path: Path) -> None:
    file = write_image(tmp_path / f"a{suffix}", COLOURS)
    pixels = read_image(file)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, COLOURS)
    assert not np.array_equal(pixels, COLOURS[..., ::-1])


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - DICOM_SUFFIXES))
def test_every_suffix_gives_what_pillow_gives(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix.upper()}"
    file.write_bytes(encode(SMOOTH, FORMATS[suffix]))
    with Image.open(file) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(file), expected)
    assert distance(expected, SMOOTH) < 4
    assert decode(read_bytes(file), 1).size == (64, 48)


def test_pixels_can_be_written_to() -> None:
    pixels = decode_image(encode(COLOURS))
    pixels[0, 0] = 7
    assert pixels[0, 0].tolist() == [7, 7, 7]


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr"])
def test_other_modes_give_what_pillow_converts_them_to(mode: str) -> None:
    image = Image.fromarray(SMOOTH).convert(mode)
    data = encode(image, "TIFF")
    np.testing.assert_array_equal(decode_image(data), np.asarray(image.convert("RGB")))
    assert decode(data, 1).size == (64, 48)


def test_grey_and_two_tone_images_have_three_equal_channels() -> None:
    for mode in ("L", "1"):
        image = Image.fromarray(SMOOTH).convert(mode)
        pixels = decode_image(encode(image))
        for channel in range(3):
            np.testing.assert_array_equal(pixels[..., channel], np.asarray(image.convert("L")))
        assert pixels.max() == 255 or mode == "L"


def test_cmyk_jpeg_is_close_to_its_rgb_original() -> None:
    data = encode(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    pixels = decode_image(data)
    assert distance(pixels, SMOOTH) < 4
    assert distance(255 - pixels, SMOOTH) > 40
    assert decode(data, 1).size == (64, 48)


@pytest.mark.parametrize(("mode", "kind"), [("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "TIFF")])
def test_transparency_is_laid_on_white(mode: str, kind: str) -> None:
    image = Image.fromarray(SMOOTH).convert(mode)
    image.putalpha(Image.fromarray(sixteen_bits() // 257).convert("L"))
    data = encode(image, kind)
    pixels = decode_image(data)
    assert np.abs(pixels - on_white(image)).max() <= 1
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert decode(data, 1).size == (64, 48)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_becomes_white_and_no_other(mode: str) -> None:
    image = Image.fromarray(SMOOTH).convert(mode)
    clear: Any = image.getpixel((10, 10))
    pixels = decode_image(encode(image, transparency=clear))
    values = np.asarray(image).reshape(48, 64, -1)
    hidden = (values == values[10, 10]).all(-1)
    assert hidden.any()
    assert (pixels[hidden] == 255).all()
    np.testing.assert_array_equal(pixels[~hidden], np.asarray(image.convert("RGB"))[~hidden])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_8_bits(kind: str) -> None:
    values = sixteen_bits()
    data = encode(Image.fromarray(values), kind)
    pixels = decode_image(data)
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, axis=2))
    assert len(np.unique(pixels)) == 256
    assert decode(data, 1).size == (64, 48)


def test_32_bit_integers_are_taken_as_16_bits_and_refused_beyond() -> None:
    values = sixteen_bits().astype(np.int32)
    data = encode(Image.fromarray(values), "TIFF")
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "I"
    np.testing.assert_array_equal(decode_image(data)[..., 0], values >> 8)
    assert decode(data, 1).size == (64, 48)
    for beyond in (values + 1, values - 1):
        for reason in refusals(encode(Image.fromarray(beyond), "TIFF")):
            assert "beyond 16 bits" in reason


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    # The standard says at which side of the scene the stored first row and first column lie.
    stored = SMOOTH.swapaxes(0, 1) if orientation >= 5 else SMOOTH
    stored = stored[::-1] if orientation in (3, 4, 6, 7) else stored
    stored = stored[:, ::-1] if orientation in (2, 3, 7, 8) else stored
    data = encode(np.ascontiguousarray(stored), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data), upright)
    assert distance(upright, SMOOTH) <= (4 if kind in ("JPEG", "WEBP") else 0)


def test_checking_tells_the_stored_size_whatever_the_orientation() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode(SMOOTH, "JPEG", exif=exif)
    assert decode(data, 1).size == (64, 48)
    assert decode_image(data).shape == (64, 48, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the damage
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_never_tells_reading_and_checking_apart(kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "a maker of cameras"
    exif[ExifTags.Base.XResolution] = (72, 1)
    data = encode(SMOOTH, kind, exif=exif)
    start = data.index(exif.tobytes()[6:])
    accepted = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        broken = bytearray(data)
        for place in rng.integers(start, start + len(exif.tobytes()) - 6, 3):
            broken[place] = rng.integers(256)
        try:
            decode(bytes(broken), 1)
        except ImageError:
            refusals(bytes(broken))
            continue
        accepted += 1
        assert sorted(decode_image(bytes(broken)).shape) == sorted(SMOOTH.shape)
    assert accepted > 0 or kind == "PNG"  # PNG guards its EXIF with a checksum


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
def test_truncated_images_are_refused(kind: str, share: float) -> None:
    data = encode(noise(seed=2, size=160), kind)
    assert decode(data, 1).size == (160, 160)
    for reason in refusals(data[: int(share * len(data))]):
        assert "cannot be decoded" in reason


def test_a_truncated_progressive_jpeg_is_refused() -> None:
    data = encode(noise(seed=2, size=160), "JPEG", progressive=True)
    for reason in refusals(data[: len(data) * 9 // 10]):
        assert "truncated" in reason


def test_float_images_are_refused() -> None:
    values = np.random.default_rng(0).random((48, 64), dtype=np.float32)
    for reason in refusals(encode(Image.fromarray(values), "TIFF")):
        assert "pixel type 'F'" in reason


def test_too_small_images_are_refused_and_just_large_enough_ones_are_not() -> None:
    data = encode(SMOOTH)
    for reason in refusals(data, min_size=49):
        assert "too small (64x48, at least 49 required)" in reason
    assert decode(data, 48).size == (64, 48)
    assert decode_image(data, 48).shape == (48, 64, 3)


def test_too_large_images_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bcd.data.opening.MAX_PIXELS", 48 * 64 - 1)
    for reason in refusals(encode(SMOOTH)[:60]):
        assert "too large (64x48)" in reason


def test_text_named_like_an_image_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.jpg"
    file.write_text("no image at all\n" * 20)
    for reason in refusals(file.read_bytes()):
        assert "not an image" in reason
    with pytest.raises(ImageError, match="not an image"):
        read_image(file)


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("empty.jpg", lambda file: file.write_bytes(b""), "empty file"),
        ("notes.txt", lambda file: file.write_text("text"), r"type '\.txt'"),
        (
            "README",
            lambda file: file.write_text("text"),
            "has no suffix, and is not DICOM",
        ),
        ("gone.png", lambda file: None, "cannot be read"),
        ("folder.png", lambda file: file.mkdir(), "cannot be read"),
    ],
)
def test_files_without_image_bytes_are_refused(
    name: str, write: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    for read in (read_bytes, read_image):
        with pytest.raises(ImageError, match=reason) as refusal:
            read(tmp_path / name)
        assert isinstance(refusal.value, UnreadableError) == (reason == "cannot be read")
