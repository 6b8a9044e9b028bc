"""How the samples of a DICOM picture are laid out, and how they become 8-bit grey or colours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcd.data.dicom.palette import read_palette
from bcd.data.dicom.parsing import Parsed
from bcd.data.files import ImageError

_GREY, _INVERTED, _PALETTE, _RGB = "MONOCHROME2", "MONOCHROME1", "PALETTE COLOR", "RGB"
_YBR = ("YBR_FULL", "YBR_FULL_422")
_LINEAR = ("LINEAR", "LINEAR_EXACT")
_TRANSFORMED = ("YBR_ICT", "YBR_RCT")  # of JPEG 2000, whose decoder gives RGB
_SAMPLES = {_GREY: 1, _INVERTED: 1, _PALETTE: 1, _RGB: 3} | dict.fromkeys(_YBR + _TRANSFORMED, 3)


@dataclass(frozen=True)
class Layout:
    """The samples of a picture.

    Attributes:
        colours: Photometric interpretation.
        samples: Number of them in a pixel, 1 or 3.
        bits: That a sample has.
        allocated: Bits in which it is stored.
    """

    colours: str
    samples: int
    bits: int
    allocated: int

    @property
    def inverted(self) -> bool:
        """Whether 0 is white."""
        return self.colours == _INVERTED

    @property
    def numbered(self) -> bool:
        """Whether samples are numbers of colours in a palette."""
        return self.colours == _PALETTE

    def as_rgb(self) -> Layout:
        """The same of a decoder that gives RGB."""
        return replace(self, colours=_RGB) if self.samples == 3 else self


def read_layout(dataset: Any, jpeg_2000: bool) -> Layout:
    """Reads the layout of samples from the attributes of a picture.

    Args:
        dataset: The attributes.
        jpeg_2000: Whether it is encoded by JPEG 2000, which has colours of its own.

    Raises:
        ImageError: It is none that is a plain picture of one or three samples.
    """
    colours = str(dataset.get("PhotometricInterpretation") or "")
    numbers = [
        int(dataset.get(keyword) or 0)
        for keyword in ("SamplesPerPixel", "BitsStored", "BitsAllocated", "PixelRepresentation")
    ]
    samples, bits, allocated, signed = numbers
    if colours not in _SAMPLES or (
        colours in _TRANSFORMED and not jpeg_2000
    ):  # not named: a damaged file may have anything there
        raise ImageError("unsupported colours (photometric interpretation)")
    if samples != _SAMPLES[colours]:
        raise ImageError(f"damaged DICOM file ({samples} samples a pixel for {colours})")
    if allocated not in (1, 8, 16) or not 1 <= bits <= allocated or (allocated, samples) == (1, 3):
        raise ImageError(f"unsupported pixels ({bits} bits stored in {allocated})")
    if int(dataset.get("HighBit", bits - 1)) != bits - 1:
        raise ImageError("unsupported pixels (not stored in the lowest bits)")
    if signed:
        raise ImageError("its values are measurements and no picture (signed)")
    if samples == 1 and colours != _PALETTE:
        _refuse_mapping(dataset, bits, colours)
    return Layout(colours, samples, bits, allocated)


def _refuse_mapping(dataset: Any, bits: int, colours: str) -> None:
    """Rejects grey values that are to be shown otherwise than from 0 to the largest."""
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if float(1 if slope is None else slope) != 1 or float(intercept or 0) != 0:
        raise ImageError("its values are measurements and no picture (rescaled)")
    shape = str(dataset.get("PresentationLUTShape") or "")
    if shape not in ("", "INVERSE" if colours == _INVERTED else "IDENTITY"):
        raise ImageError("is to be shown inverted, or otherwise than its colours say")
    centers, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centers is None or widths is None:
        return
    if str(dataset.get("VOILUTFunction") or "LINEAR") not in _LINEAR:
        raise ImageError("has a display window that is not linear")
    center, width = (float(np.atleast_1d(given)[0]) for given in (centers, widths))
    # A window from 0 to the largest value or beyond one of them by rounding changes nothing.
    if abs(width - (1 << bits)) > 1 or abs(center - (1 << bits - 1)) > 1:
        raise ImageError("has a display window that is not the whole range of its values")


def to_image(samples: NDArray[Any], layout: Layout, parsed: Parsed) -> Image.Image:
    """An image of mode L, RGB or YCbCr of decoded samples.

    Args:
        samples: (height, width) or (height, width, 3), unsigned.
        layout: Of the samples; its colours are those after decoding.
        parsed: The file, which has the palette.

    Raises:
        ImageError: The palette is damaged.
    """
    if layout.numbered:
        palette = read_palette(parsed.dataset, layout.bits, parsed.file.encoding.little)
        return Image.fromarray(palette[samples])
    values = _to_8_bits(samples, layout.bits)
    if layout.inverted:
        values = 255 - values
    return Image.fromarray(
        np.ascontiguousarray(values), "YCbCr" if layout.colours in _YBR else None
    )


def _to_8_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Brings values to 8 bits: more bits lose the lowest ones, fewer are stretched to 255."""
    if bits >= 8:
        return np.asarray(np.right_shift(values, bits - 8) if bits > 8 else values, np.uint8)
    table = np.arange(256) * 255 // ((1 << bits) - 1)
    return np.asarray(table[values], np.uint8)
