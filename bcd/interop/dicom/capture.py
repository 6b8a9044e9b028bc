"""Pictures as Secondary Capture: an image itself, or with the evidence drawn over it."""

from __future__ import annotations

from datetime import datetime

import cv2
import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from bcd.config.disclaimer import DISCLAIMER
from bcd.interop.dicom.content import Evidence, Producer, derived_uid
from bcd.interop.dicom.making import coded_item, equipment, finish, method_name
from bcd.interop.dicom.source import Source, content_sha256, header, refer, series_of

Pixels = NDArray[np.uint8]

_TEXT = 1_024  # characters of a derivation description
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def image_object(producer: Producer, source: Source, pixels: Pixels, at: datetime) -> Dataset:
    """An image that is in no DICOM object yet, so that references to it can be resolved.

    Args:
        producer: Whose software makes it.
        source: The picture, as `source_of_picture` describes it.
        pixels: RGB, (rows, columns, 3).
        at: When it was made.

    Raises:
        ObjectError: The patient or the study of the source cannot be written.
    """
    made = _captured(producer, source, pixels, source.series_uid, source.sop_uid, 9004)
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    finish(made, source, at)
    return made


def capture(
    producer: Producer, source: Source, evidence: Evidence, drawn: Pixels, at: datetime
) -> Dataset:
    """An image with the evidence drawn over it, and below it what it shows and the disclaimer.

    Args:
        producer: The model.
        source: The picture.
        evidence: What is drawn.
        drawn: RGB, (height, width, 3).
        at: When it was made.

    Raises:
        ObjectError: The patient or the study of the source cannot be written.
    """
    pixels = captioned(drawn, [f"Evidence for {evidence.target} ({method_name(evidence)})"])
    words = (producer.sha256, producer.card_sha256, evidence.target, evidence.method)
    own = derived_uid(
        "capture", source.study_uid, *source.patient, source.key, *words,
        content_sha256(pixels.tobytes()),
    )  # fmt: skip
    series = series_of(source, "capture", producer.sha256)
    made = _captured(producer, source, pixels, series, own, 9003)
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.DerivationDescription = (
        f"Evidence for {evidence.target.translate(_NO_BACKSLASH)} by {method_name(evidence)}, drawn"
        f" over the image. {DISCLAIMER}"
    )[:_TEXT]
    item = Dataset()
    item.ReferencedSOPClassUID = source.sop_class_uid
    item.ReferencedSOPInstanceUID = source.sop_uid
    item.PurposeOfReferenceCodeSequence = [
        coded_item(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    made.SourceImageSequence = [item]
    finish(made, source, at)
    refer(made, [source])
    return made


_NO_BACKSLASH = str.maketrans("\\", "/")


def _captured(
    producer: Producer, source: Source, pixels: Pixels, series: str, own: str, number: int
) -> SCImage:
    known = header(source)
    made = SCImage.from_ref_dataset(
        ref_dataset=known,
        pixel_array=np.ascontiguousarray(pixels),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),  # replaced: a smear has none
        series_instance_uid=series,
        series_number=number,
        sop_instance_uid=own,
        instance_number=1,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **equipment(producer),
    )
    made.ConversionType = "WSD"
    if source.annotated is not None:  # what the text below says names nobody
        made.BurnedInAnnotation = "YES" if source.annotated else "NO"
    made.RecognizableVisualFeatures = "NO"
    return made


def captioned(picture: Pixels, lines: list[str]) -> Pixels:
    """A picture with lines of text and the disclaimer below it, none over it.

    Args:
        picture: RGB, (height, width, 3).
        lines: Characters that are not ASCII are drawn as question marks.
    """
    width = picture.shape[1]
    texts = [line.encode("ascii", "replace").decode() for line in (*lines, DISCLAIMER)]
    widest = max(cv2.getTextSize(text, _FONT, 1, 1)[0][0] for text in texts)
    scale = min(max(0.96 * width / widest, 0.01), 1.0)
    step = max(round(40 * scale), 8)
    strip = np.zeros((step * len(texts) + step // 2, width, 3), np.uint8)
    for number, text in enumerate(texts, 1):
        place = (round(0.02 * width), step * number)
        cv2.putText(strip, text, place, _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([picture, strip])
