"""What all DICOM objects have in common."""

from __future__ import annotations

import io
import logging
import warnings
from datetime import datetime
from typing import Any

from highdicom import AlgorithmIdentificationSequence
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from bcd.config.disclaimer import DISCLAIMER
from bcd.interop.codes import LOCAL, LOCAL_UID, Concept
from bcd.interop.dicom.content import Evidence, Producer, derived_uid
from bcd.interop.dicom.source import Source, header

MEDIA_TYPE = "application/dicom"
MANUFACTURER = "bcd"
_METHODS = {
    "gradcam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion",
}
# What these tell names patients.
for _name in ("highdicom", "pydicom"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", r"(?s).*unlikely to represent the intended person name")

_SHORT = 64  # of LO; DICOM counts characters, some readers bytes


def coded(concept: Concept) -> CodedConcept:
    """A concept as highdicom takes it."""
    return CodedConcept(concept.code, concept.scheme, one_line(concept.meaning))


def coded_item(code: Code) -> CodedConcept:
    """A code of pydicom's dictionary as highdicom takes it."""
    return CodedConcept.from_code(code)


def one_line(text: str, most: int = _SHORT) -> str:
    """A text for an attribute of one short value: a backslash would make several of it."""
    clean = "".join(c if c.isprintable() else " " for c in text.replace("\\", "/"))
    cut = " ".join(clean.split()).encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
    return cut.strip() or "unnamed"


def method_name(evidence: Evidence) -> str:
    """How a heat map was made, in words."""
    return _METHODS.get(evidence.method, evidence.method)


def equipment(producer: Producer) -> dict[str, Any]:
    """The attributes of the equipment, as arguments of highdicom."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": one_line(producer.name),
        "software_versions": one_line(f"bcd {producer.software}"),
        "device_serial_number": producer.sha256,
    }


def parameters(producer: Producer) -> dict[str, str]:
    """What identifies a model exactly."""
    return {
        "model_sha256": producer.sha256,
        "card_sha256": producer.card_sha256,
        "bcd": producer.software,
    }


def algorithm(producer: Producer, evidence: Evidence) -> AlgorithmIdentificationSequence:
    """Which algorithm found the evidence."""
    return AlgorithmIdentificationSequence(
        name=one_line(producer.name),
        family=codes.cid7162.ArtificialIntelligence,
        version=one_line(producer.version),
        source=MANUFACTURER,
        parameters=parameters(producer) | {"attribution": evidence.method},
    )


def finish(made: Dataset, source: Source, at: datetime) -> None:
    """Adds what highdicom leaves out, and replaces what it draws at random or takes from the clock.

    So equal contents give equal bytes, and PACSs do not take them for different ones.

    Args:
        made: The object; is modified.
        source: Its picture, or the first of several.
        at: When it was made, with a time zone.
    """
    timed = bool(source.attributes.get("StudyTime"))  # in a zone that is not known: ours
    if timed:
        at = at.astimezone()
    day, time = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    for element in list(made):
        if element.keyword in _DATES:
            element.value = day
        elif element.keyword in _TIMES:
            element.value = time
    if not timed:
        made.TimezoneOffsetFromUTC = at.strftime("%z")
    made.SpecificCharacterSet = "ISO_IR 192"
    known = header(source)
    for keyword in source.attributes:
        if keyword not in made and keyword in known:
            made[keyword] = known[keyword]
    if made.Modality != "SR":
        made.PatientOrientation = ""
        made.ImageComments = DISCLAIMER
        if made.Modality != "SEG":
            made.Laterality = ""  # a smear has none, but its IODs ask for one
    made.SeriesDescription = one_line(f"bcd: {DISCLAIMER}")
    for item in made.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = day + time
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made.get(keyword, []):
            item.DimensionOrganizationUID = derived_uid("dimensions", made.SOPInstanceUID)
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeUID = LOCAL, LOCAL_UID
    scheme.CodingSchemeName = "Concepts of bcd (blood cancer detection)"
    made.CodingSchemeIdentificationSequence = [scheme]


_DATES = ("InstanceCreationDate", "ContentDate", "SeriesDate", "DateOfSecondaryCapture")
_TIMES = ("InstanceCreationTime", "ContentTime", "SeriesTime", "TimeOfSecondaryCapture")


def encoded(made: Dataset) -> bytes:
    """An object as the bytes of a DICOM file."""
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
