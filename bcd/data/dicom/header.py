"""What the header of a DICOM file says; attributes only as far as they are asked for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

_PREAMBLE = 128  # bytes in front of the prefix
START = _PREAMBLE + 4  # bytes that `is_dicom` needs


def is_dicom(data: bytes) -> bool:
    """Whether bytes begin as a DICOM file does: a preamble of 128 bytes, then `DICM`."""
    return data[_PREAMBLE:START] == b"DICM"


SEVERAL = "; "  # between the values of an attribute that has more than one
UNCERTAIN = "\ufffd"  # in place of what cannot be read for certain in one


@dataclass(frozen=True)
class Header:
    """What a DICOM file says about its pictures.

    Attributes:
        frames: Number of pictures.
        width: Of each, in pixels.
        height: Of each, in pixels.
        kind: Name of the SOP class, for example "VL Microscopic Image Storage".
        sop_uid_sha256: sha256 of the SOP Instance UID; empty if it has none. So for the study.
        study_uid_sha256: sha256 of the Study Instance UID.
        kept: The attributes that were asked for, as text, by keyword; those that the file has.
    """

    frames: int
    width: int
    height: int
    kind: str
    sop_uid_sha256: str = ""
    study_uid_sha256: str = ""
    kept: dict[str, str] = field(default_factory=dict)

    def to_line(self) -> str:
        """As a line of JSON in ASCII."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Header:
        """What `to_line` gave."""
        return cls(**json.loads(line))
