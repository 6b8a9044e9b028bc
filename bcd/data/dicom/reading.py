"""Reads DICOM files: their header, or one of their pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bcd.data.dicom.header import Header
from bcd.data.dicom.parsing import parse
from bcd.data.reading import decode


def read_header(data: bytes, keep: Sequence[str] = ()) -> Header:
    """Reads the header of a DICOM file; no pixel is decoded.

    Args:
        data: The file.
        keep: Keywords of attributes to keep, such as `PatientID`.

    Raises:
        ImageError: It is no DICOM file with pictures that are read here, or pydicom is missing.
    """
    return parse(data, keep).header


def decode_frame(data: bytes, frame: int = 1) -> NDArray[np.uint8]:
    """Decodes a picture of a DICOM file.

    Args:
        data: The file.
        frame: Number of the picture, from 1 on.

    Returns:
        RGB, (height, width, 3).

    Raises:
        ImageError: As in `bcd.data.dicom.frames.opened_frame`.
    """
    return decode(data, frame=frame, whole=True).pixels
