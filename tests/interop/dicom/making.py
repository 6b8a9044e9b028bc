"""A model, answers and pictures that DICOM objects are made of in tests."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import numpy as np

from bcd.interop.dicom.content import Answer, Evidence, Producer
from bcd.interop.dicom.source import Source, source_of_file, source_of_picture

AT = datetime(2026, 3, 4, 5, 6, 7, 89000, timezone.utc)
ODD = "Zürich\\Ω 白血病"  # a class of another data set
CLASSES = ("Benign", "Early Pre-B", "Pre-B", ODD)
PRODUCER = Producer("paper", "0.1.0", "5" * 64, "c" * 64, CLASSES, "0.1.0")
ROWS, COLUMNS = 40, 56
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.4"  # true colour secondary capture
KEPT = {
    "SOPClassUID": MULTI_FRAME,
    "SOPInstanceUID": "1.2.3.4",
    "SeriesInstanceUID": "1.2.3.5",
    "StudyInstanceUID": "1.2.3.6",
    "PatientID": "P-17",
    "PatientName": "Yamada^Tarou=山田^太郎",
    "PatientBirthDate": "19600229",
    "StudyDate": "20250102",
    "StudyDescription": "Blutausstrich Zürich",
    "PixelSpacing": "0.01; 0.02",
    "BurnedInAnnotation": "NO",
}
ANONYMOUS = source_of_picture("case", "image", ROWS, COLUMNS, {"PatientID": "case"})
OF_FILE = source_of_file(KEPT, ROWS, COLUMNS, 3, "study", "picture")
SOURCES: dict[str, Source] = {"anonymous": ANONYMOUS, "of a file": OF_FILE}
EVIDENCE = Evidence(ODD, "occlusion")

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (ROWS, COLUMNS, 3), dtype=np.uint8)
DENSITY = rng.random((ROWS, COLUMNS)).astype(np.float32)


def answer(**changes: Any) -> Answer:
    """An answer that is referred."""
    given: dict[str, Any] = {
        "number": 1,
        "sha256": "a" * 64,
        "predicted": "Pre-B",
        "probabilities": (0.125, 0.1875, 0.4375, 0.25),
        "malignant": True,
        "prediction_set": ("Pre-B", ODD),
        "refer": True,
        "reasons": ("low confidence", "a reason of a later version"),
        "ood_score": 0.5,
    }
    return Answer(**{**given, **changes})


def no_answer(**changes: Any) -> Answer:
    """What is said about a file that cannot be read."""
    unread = {"predicted": None, "probabilities": (), "malignant": None, "prediction_set": ()}
    why = {"reasons": ("unreadable",), "ood_score": None, "error": "cannot be decoded"}
    return answer(**unread, **why, **changes)
