"""Corruptions of an image's pixels, by strength: light, colour, stain, focus, camera, compression.

Each takes uint8 RGB of any height and width and returns a new array of the same shape. Lengths are
in pixels of the given image. Random draws come from the generator passed in. Suites of corruptions
are in `corruption_suites`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.stains import draw_jitter, restain

Pixels = NDArray[np.uint8]
Layer = NDArray[np.float32]

# Weights of red, green and blue in the brightness (ITU-R BT.601), as in JPEG and in grey images.
_LUMA = (0.299, 0.587, 0.114)

# CIE XYZ to linear sRGB (IEC 61966-2-1), and the colour temperature (kelvin) of its white point.
_TO_RGB = np.array(
    [(3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570)]
)
DAYLIGHT = 6500.0


def brightness(pixels: Pixels, factor: float) -> Pixels:
    """Multiplies by a factor and clips at white."""
    return _mapped(pixels, np.arange(256) * factor)


def contrast(pixels: Pixels, factor: float) -> Pixels:
    """Multiplies the distance from the image's mean brightness by a factor."""
    middle = float(np.dot(cv2.mean(pixels)[:3], _LUMA))
    return _mapped(pixels, (np.arange(256) - middle) * factor + middle)


def saturation(pixels: Pixels, factor: float) -> Pixels:
    """Multiplies each pixel's distance from its grey by a factor; 0 gives a grey image."""
    matrix = factor * np.eye(3) + (1 - factor) * np.tile(_LUMA, (3, 1))
    return _pixels(cv2.transform(pixels, matrix))


def hue(pixels: Pixels, degrees: float) -> Pixels:
    """Rotates the hue (HSV) by degrees; above 0 from red towards green."""
    # As floats, because in bytes a step of hue is two degrees.
    layers = _layer(cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2HSV))
    layers[..., 0] = np.mod(layers[..., 0] + np.float32(degrees), np.float32(360))
    return _rounded(_layer(cv2.cvtColor(layers, cv2.COLOR_HSV2RGB)))


def stain(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Makes each of three stains stronger or weaker by a share; random signs decide which.

    Args:
        pixels: RGB, (height, width, 3).
        share: Of each stain's amount, added or removed; below 1.
        rng: Draws the three signs.
    """
    return restain(pixels, 1 + share * rng.choice((-1.0, 1.0), 3))


def hed_jitter(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Changes the three stains at random by up to `strength`, multiplicatively and additively.

    HED jitter (Tellez et al., "Whole-slide mitosis detection in H&E breast histology", 2018).
    """
    return restain(pixels, *draw_jitter(strength, rng))


def white_balance(pixels: Pixels, kelvin: float) -> Pixels:
    """Renders the image in daylight of another colour, for a camera balanced for 6500 K.

    Red and blue change, green does not, as in a camera's own correction. Below 6500 K the image is
    warmer (redder), above it colder.

    Args:
        pixels: RGB, (height, width, 3).
        kelvin: Colour temperature, 4000 to 25000.
    """
    light = _daylight(kelvin) / _daylight(DAYLIGHT)
    level = np.arange(256)[:, None] / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    linear = linear * light / light[1]
    coded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return _mapped(pixels, 255 * coded)


def defocus(pixels: Pixels, radius: float) -> Pixels:
    """Convolves with a disc of that radius, as a lens out of focus does."""
    return _filtered(pixels, _disc(radius))


def gaussian_blur(pixels: Pixels, sd: float) -> Pixels:
    """Blurs with a Gaussian of that standard deviation and a kernel of 5 x 5 pixels."""
    blurred = cv2.GaussianBlur(pixels, (5, 5), sd, borderType=cv2.BORDER_REFLECT_101)
    return _pixels(blurred)


def motion_blur(pixels: Pixels, length: float, rng: np.random.Generator) -> Pixels:
    """Convolves with a straight line of that length in a random direction."""
    angle = rng.uniform(0, np.pi)
    along = np.linspace(-0.5, 0.5, 8 * int(np.ceil(length)) + 1) * length
    return _filtered(pixels, _spread(along * np.cos(angle), along * np.sin(angle)))


def jpeg(pixels: Pixels, quality: float) -> Pixels:
    """Compresses as JPEG (4:2:0) with a quality from 1 to 100."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded: Any = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return _pixels(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def noise(pixels: Pixels, sd: float, rng: np.random.Generator) -> Pixels:
    """Adds normal noise to each channel of each pixel; `sd` is relative to full brightness."""
    grain = rng.standard_normal(pixels.shape, dtype=np.float32)
    grain *= np.float32(255 * sd)
    grain += pixels
    return _rounded(grain)


def pixelation(pixels: Pixels, factor: float) -> Pixels:
    """Averages blocks of `factor` x `factor` pixels."""
    height, width = pixels.shape[:2]
    coarse = (max(1, round(width / factor)), max(1, round(height / factor)))
    small = cv2.resize(pixels, coarse, interpolation=cv2.INTER_AREA)
    # INTER_AREA keeps the blocks in place; INTER_NEAREST moves them by up to a pixel.
    return _pixels(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA))


def zoom(pixels: Pixels, factor: float) -> Pixels:
    """Scales about the centre; a factor below 1 fills the border by reflection."""
    height, width = pixels.shape[:2]
    x, y = (1 - factor) * (width - 1) / 2, (1 - factor) * (height - 1) / 2
    matrix = np.array([(factor, 0, x), (0, factor, y)])
    mirror = cv2.BORDER_REFLECT_101
    return _pixels(cv2.warpAffine(pixels, matrix, (width, height), borderMode=mirror))


def _mapped(pixels: Pixels, levels: NDArray[np.floating[Any]]) -> Pixels:
    """Maps each value by `levels` (256,), or by (256, 3) with one column per channel."""
    table = _rounded(levels.astype(np.float32))
    return _pixels(cv2.LUT(pixels, table.reshape(1, 256, -1)))


def _rounded(values: Layer) -> Pixels:
    """Rounds values to bytes, in place."""
    np.rint(values, out=values)
    return _pixels(np.clip(values, 0, 255, out=values))


def _pixels(values: Any) -> Pixels:
    return np.asarray(values, dtype=np.uint8)


def _layer(values: Any) -> Layer:
    return np.asarray(values, dtype=np.float32)


def _daylight(kelvin: float) -> NDArray[np.float64]:
    """Linear sRGB of CIE daylight of a colour temperature (CIE 15:2004)."""
    terms = np.array([1e9 / kelvin**3, 1e6 / kelvin**2, 1e3 / kelvin, 1])
    warm, cold = (-4.6070, 2.9678, 0.09911, 0.244063), (-2.0064, 1.9018, 0.24748, 0.237040)
    x = float(np.dot(terms, warm if kelvin <= 7000 else cold))
    y = -3 * x**2 + 2.870 * x - 0.275
    return np.asarray(_TO_RGB @ (x / y, 1, (1 - x - y) / y), dtype=np.float64)


def _filtered(pixels: Pixels, kernel: Layer) -> Pixels:
    return _pixels(cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


@lru_cache(maxsize=32)
def _disc(radius: float) -> Layer:
    """Kernel of a disc."""
    steps = np.linspace(-radius, radius, 65)
    x, y = (side.ravel() for side in np.meshgrid(steps, steps))
    inside = x**2 + y**2 <= radius**2
    return _spread(x[inside], y[inside])


def _spread(x: NDArray[np.float64], y: NDArray[np.float64]) -> Layer:
    """Kernel that averages the image over points (pixels from the centre).

    Between pixels the image is interpolated bilinearly, so that discs and lines smaller than a
    pixel blur a little instead of not at all.
    """
    reach = int(np.ceil(max(np.abs(x).max(), np.abs(y).max())))
    offsets = np.arange(-reach, reach + 1)
    across = np.clip(1 - np.abs(x[:, None] - offsets), 0, None)
    down = np.clip(1 - np.abs(y[:, None] - offsets), 0, None)
    return np.asarray(down.T @ across / len(x), dtype=np.float32)
