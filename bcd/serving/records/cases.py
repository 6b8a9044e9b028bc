"""A case: a set of images, their answers, reviews and signatures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from bcd.serving.answers import ImageAnswer

OPEN, SIGNED, ERASED = "open", "signed", "erased"

# A person's finding where no class of the model applies.
UNIDENTIFIED = "Unidentified"


@dataclass(frozen=True)
class Review:
    """What a person found in an image.

    Attributes:
        by: Name of the user.
        at: Seconds since 1970, UTC.
        finding: A class of the model or `UNIDENTIFIED`.
        overrides: Whether it differs from the answer.
        remark: Free text; empty if erased.
        image_held: Whether the server could show the image when it was reviewed.
    """

    by: str
    at: float
    finding: str
    overrides: bool
    remark: str
    image_held: bool = True


@dataclass(frozen=True)
class Signature:
    """A signature under a case.

    Attributes:
        by: Name of the user.
        at: Seconds since 1970, UTC.
        chain: Number and hash of the last record that the signature covers, `<number>:<hash>`.
    """

    by: str
    at: float
    chain: str


@dataclass(frozen=True)
class Source:
    """The DICOM file that an image was read from.

    Attributes:
        sha256: Of the file.
        frame: From 1.
        sop: sha256 of its SOP Instance UID; empty if it cannot be read.
        frames: Number of frames in the file; 1 if it cannot be read.
    """

    sha256: str
    frame: int
    sop: str = ""
    frames: int = 1


@dataclass(frozen=True)
class NewImage:
    """An image that is to be answered.

    Attributes:
        name: Of the file, as uploaded.
        data: Encoded, as uploaded, or the PNG of a frame of a DICOM file; nothing of the rest of
            such a file is here, and no bytes if it cannot be read.
        upload: Hash of the id that the client gave the upload; empty if it gave none.
        source: The DICOM file; None if it is of none.
        kept: By keyword, the attributes of the DICOM file that are kept (`dicom.keep`).
        error: Why it cannot be read, if that is known already; else empty.
    """

    name: str
    data: bytes
    upload: str = ""
    source: Source | None = None
    kept: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def sha256(self) -> str:
        """As in its answer: of its bytes, or of the DICOM file that cannot be read."""
        if self.error and self.source:
            return self.source.sha256
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class CaseImage:
    """An image of a case.

    Attributes:
        id: Identifies it in the case's URLs.
        number: From 1, in order of arrival.
        name: File name as uploaded; empty if erased.
        at: Seconds since 1970, UTC.
        answer: Of the model.
        reviews: The last one counts.
        kept: Whether its bytes are in the records.
        upload: Hash of the id that the client gave the upload; empty if it gave none.
        source: The DICOM file that it was read from; None if it is of none.
        attributes: By keyword, what was kept of the DICOM file; empty if erased.
    """

    id: str
    number: int
    name: str
    at: float
    answer: ImageAnswer
    reviews: tuple[Review, ...] = ()
    kept: bool = False
    upload: str = ""
    source: Source | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def review(self) -> Review | None:
        """The last review."""
        return self.reviews[-1] if self.reviews else None

    @property
    def finding(self) -> str | None:
        """What a person found, else the model's class; None if there is neither."""
        return self.review.finding if self.review else self.answer.predicted

    @property
    def waits(self) -> bool:
        """Whether it was referred and nobody has reviewed it."""
        return self.answer.refer and self.review is None


@dataclass(frozen=True)
class Case:
    """A case.

    Attributes:
        id: Identifies it in URLs.
        label: Given by the user; empty if erased.
        opened_by: Name of the user.
        opened_at: Seconds since 1970, UTC.
        model_sha256: Of the model that answers its images.
        model_name: Its name.
        classes: Of the model.
        status: `OPEN`, `SIGNED` (with all signatures that are needed) or `ERASED`.
        version: Number of the last record about it; a review or signature names the version that
            the person saw.
        signatures_needed: How many different people have to sign.
        images: In order of arrival.
        signatures: That count.
        site: Whose case it is.
        queued: Number of further images, which wait for an answer.
    """

    id: str
    label: str
    opened_by: str
    opened_at: float
    model_sha256: str
    model_name: str
    classes: tuple[str, ...]
    status: str
    version: int
    signatures_needed: int
    images: tuple[CaseImage, ...] = ()
    signatures: tuple[Signature, ...] = field(default=())
    site: str = ""
    queued: int = 0

    @property
    def same_files(self) -> dict[str, int]:
        """For images that another of the case equals byte for byte, the number of the first."""
        first: dict[str, int] = {}
        for image in self.images:
            first.setdefault(image.answer.sha256, image.number)
        return {
            image.id: first[image.answer.sha256]
            for image in self.images
            if first[image.answer.sha256] != image.number
        }

    @property
    def waiting(self) -> int:
        """Number of referred images that nobody has reviewed."""
        return sum(image.waits for image in self.images)


@dataclass(frozen=True)
class CaseSummary:
    """A row of the list of cases."""

    id: str
    label: str
    opened_by: str
    opened_at: float
    status: str
    images: int
    waiting: int
    signatures: int
    signatures_needed: int
    site: str = ""
    queued: int = 0
