"""The picture that DICOM objects are about: what they refer to, and the study that they join."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from bcd.interop.dicom.content import PATIENT, ObjectError, derived_uid, patient_key

# Attributes that objects take over from a DICOM file, so that they are filed with it.
STUDY = (
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "StudyDescription",
    "ReferringPhysicianName",
)  # fmt: skip
IDENTITY = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
PICTURE = ("PixelSpacing", "BurnedInAnnotation")
KEYWORDS = (*IDENTITY, *PATIENT, *STUDY, *PICTURE)

# What objects are filed by: without a valid value none is written.
_FILED = ("PatientID", "IssuerOfPatientID", "AccessionNumber")
_SEVERAL = "; "  # between values of an attribute, as headers are read
_UNCERTAIN = "\ufffd"  # in place of what cannot be read for certain, the same
# SOP classes, of those that are read, whose objects may have several frames.
_MULTI_FRAME = tuple(f"{SecondaryCaptureImageStorage}.{number}" for number in range(1, 5))

# Each object has these, empty if unknown.
_ALWAYS = (PATIENT[0], *PATIENT[2:], *STUDY[:4], "ReferringPhysicianName")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")


@dataclass(frozen=True)
class Source:
    """A picture and its study.

    Attributes:
        sop_class_uid: Of the DICOM object that holds it.
        sop_uid: The same.
        series_uid: The same.
        study_uid: The same.
        rows: Height of the picture in pixels.
        columns: Width of the picture in pixels.
        frame: Its number in an object of several, from 1; None in an object of one.
        exists: Whether there is such an object already; if not, `capture.image_object` makes it.
        attributes: Of patient and study, as text by keyword.
        spacing: Millimetres between rows and between columns; None if unknown.
        annotated: Whether names or dates are burned into it; None if unknown.
    """

    sop_class_uid: str
    sop_uid: str
    series_uid: str
    study_uid: str
    rows: int
    columns: int
    frame: int | None = None
    exists: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    spacing: tuple[float, float] | None = None
    annotated: bool | None = None

    @property
    def key(self) -> str:
        """Identifies the picture."""
        return f"{self.sop_uid}#{self.frame or 1}"

    @property
    def patient(self) -> tuple[str, str]:
        """What tells patients apart, `patient_key`: part of the UIDs of all objects."""
        return patient_key(self.attributes)


def source_of_file(
    kept: Mapping[str, str],
    rows: int,
    columns: int,
    frame: int | None,
    study: str,
    picture: str,
) -> Source:
    """The source for a picture of a DICOM file, whose study and patient the objects get.

    Args:
        kept: `KEYWORDS` of the file, those that it has.
        rows: Height in pixels.
        columns: Width in pixels.
        frame: Its number, from 1, in a file of several; None in a file of one.
        study: Identifies what belongs together, if the file has no valid UIDs.
        picture: Identifies the picture in it, the same.
    """
    sop_class, sop, series, uid = (kept.get(word, "") for word in IDENTITY)
    found = source_of_picture(study, picture, rows, columns)
    # To a frame of an object that may have only one, no reference is valid: then of `image_object`.
    refers = frame is None or sop_class in _MULTI_FRAME
    if refers and all(map(valid_uid, (sop_class, sop, series, uid))):
        found = Source(sop_class, sop, series, uid, rows, columns, frame, exists=True)
    elif valid_uid(uid):
        found = replace(found, study_uid=uid)
    return replace(
        found,
        attributes={word: kept[word] for word in (*PATIENT, *STUDY) if kept.get(word)},
        spacing=_spacing(kept.get("PixelSpacing", "")),
        annotated={"YES": True, "NO": False}.get(kept.get("BurnedInAnnotation", "")),
    )


def source_of_picture(
    study: str,
    picture: str,
    rows: int,
    columns: int,
    attributes: Mapping[str, str] | None = None,
) -> Source:
    """The source for a picture that is in no DICOM object yet, in a study of its own.

    Args:
        study: Identifies what belongs together, such as a case.
        picture: Identifies the picture in it.
        rows: Height in pixels.
        columns: Width in pixels.
        attributes: Of patient and study; None: none, so that the objects are anonymous.
    """
    return Source(
        SecondaryCaptureImageStorage,
        derived_uid("image", study, picture),
        derived_uid("images", study),
        derived_uid("study", study),
        rows,
        columns,
        attributes=dict(attributes or {}),
    )


def valid_uid(text: str) -> bool:
    """Whether a text is a DICOM UID."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _spacing(text: str) -> tuple[float, float] | None:
    try:
        rows, columns = map(float, text.split(_SEVERAL))
    except ValueError:
        return None
    return (rows, columns) if 0 < rows < 1e6 and 0 < columns < 1e6 else None


def header(source: Source) -> Dataset:
    """What highdicom has to know of a source, a header without pixels.

    It is that of a single picture: highdicom takes no picture out of several without a frame of
    reference. `refer` then names the object and the frame.

    Raises:
        ObjectError: What identifies the patient or the study is not valid in DICOM.
    """
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = source.sop_uid
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = source.series_uid, source.study_uid
    dataset.Modality = "OT"
    for keyword in _ALWAYS:
        setattr(dataset, keyword, "")
    for keyword, text in source.attributes.items():
        _set(dataset, keyword, text)
    dataset.Rows, dataset.Columns = source.rows, source.columns
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    return dataset


def _set(dataset: Dataset, keyword: str, text: str) -> None:
    """Sets an attribute, if the text is a value that it can have."""
    tag = tag_for_keyword(keyword)
    assert tag is not None  # all keywords here are in the dictionary
    try:
        if _SEVERAL in f"{text} " and keyword != "StudyDescription":
            raise ValueError("several values")
        if _UNCERTAIN in text:
            raise ValueError("uncertain")
        dataset.add(DataElement(tag, dictionary_VR(tag), text, validation_mode=RAISE))
    except (ValueError, TypeError):
        # Filed under another patient or none: worse than no object.
        if keyword in _FILED:
            raise ObjectError(f"the source's {keyword} is not valid in DICOM") from None


def refer(made: Dataset, sources: Iterable[Source], frames: bool = True) -> None:
    """Has all references to the headers of sources name their objects, and their frames.

    Args:
        made: The object; is modified.
        sources: Whose headers it was made with.
        frames: Whether references name the frame; a report does that itself.
    """
    known = {source.sop_uid: source for source in sources}
    for element in made.iterall():
        if element.VR != "SQ":
            continue
        if element.keyword == "ReferencedInstanceSequence":
            # Whole objects; highdicom uses the same items in other sequences, too.
            element.value = [deepcopy(item) for item in element.value]
        for item in element.value:
            source = known.get(item.get("ReferencedSOPInstanceUID"))
            if source is None:
                continue
            item.ReferencedSOPClassUID = source.sop_class_uid
            whole = element.keyword == "ReferencedInstanceSequence"
            if frames and source.frame is not None and not whole:
                item.ReferencedFrameNumber = source.frame


def series_of(source: Source, kind: str, producer: str) -> str:
    """UID of the series for objects of one kind by one model in a study."""
    return derived_uid("series", source.study_uid, *source.patient, kind, producer)


def content_sha256(*parts: bytes) -> str:
    """Identifies pixels or values in the UIDs of objects."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
