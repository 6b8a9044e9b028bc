"""From records to a case, and the rules of what may follow what."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from bcd.serving.answers import ImageAnswer, ModelIdentity
from bcd.serving.records.cases import (
    ERASED,
    OPEN,
    SIGNED,
    Case,
    CaseImage,
    NewImage,
    Review,
    Signature,
    Source,
)
from bcd.serving.records.chain import Record, clean_text

# Kinds of records that are about cases and answers; all others are events.
OPENED, ANSWERED, REVIEWED, SIGNATURE = "case", "answer", "review", "signature"
ERASURE, EXPIRED, MODEL = "erasure", "expired", "model"
KINDS = (OPENED, ANSWERED, REVIEWED, SIGNATURE, ERASURE, EXPIRED, MODEL)


@dataclass
class CaseRow:
    """A row of the table `cases`; the rules by which records change it.

    Attributes:
        id: Of the case.
        record: Number of the record in which it was opened.
        opened_at: Seconds since 1970, UTC.
        opened_by: Name of the user.
        site: Whose case it is.
        model_sha256: Of the model that answers its images.
        signatures_needed: How many different people have to sign.
        status: See `bcd.serving.records.cases`.
        version: Number of the last record about it.
        signed_by: JSON, names of those whose signatures count.
    """

    id: str
    record: int
    opened_at: float
    opened_by: str
    site: str
    model_sha256: str
    signatures_needed: int
    status: str
    version: int
    signed_by: str

    @property
    def signers(self) -> list[str]:
        """Names of those whose signatures count."""
        found: list[str] = json.loads(self.signed_by)
        return found

    @classmethod
    def opened(
        cls, case_id: str, number: int, time: float, user: str, site: str, facts: Mapping[str, Any]
    ) -> CaseRow:
        """The row of a new case; `facts` is the payload of its record."""
        model, needed = facts["model"], facts["signatures_needed"]
        return cls(case_id, number, time, user, site, model, needed, OPEN, number, "[]")

    def follow(self, number: int, kind: str, user: str) -> None:
        """Changes the row as a record about its case demands.

        Args:
            number: Of the record.
            kind: Of the record.
            user: Of the record.
        """
        self.version = number
        if kind == SIGNATURE:
            signers = [*self.signers, user]
            self.signed_by = json.dumps(signers)
            if len(signers) >= self.signatures_needed:
                self.status = SIGNED
        elif kind == ERASURE:
            self.status = ERASED
        elif kind in (ANSWERED, REVIEWED):
            self.signed_by = "[]"  # they signed something else


def answer_row(record: Record) -> dict[str, object]:
    """The row of the table `answers` for a record, without a review."""
    return answer_values(
        record.number, record.time, record.case_id, record.image_id, record.site, record.facts
    )


def answer_values(
    number: int,
    time: float,
    case_id: str | None,
    image_id: str | None,
    site: str,
    facts: Mapping[str, Any],
) -> dict[str, object]:
    """The row of the table `answers` for a record's fields."""
    answer, refer = facts["answer"], int(facts["answer"]["refer"])
    score = answer["ood_score"]
    return {
        "record": number,
        "time": time,
        "case_id": case_id,
        "image_id": image_id,
        "site": site,
        "upload": facts.get("upload"),
        "model_sha256": answer["model_sha256"],
        "predicted": answer["predicted"],
        "refer": refer,
        "reasons": json.dumps(answer["reasons"]),
        "ood_score": None if score is None or not math.isfinite(score) else score,
        "threshold": answer["threshold"],
        "match_sha256": answer["match"],
        "finding": None,
        "waiting": refer if case_id else 0,
    }


def model_values(number: int, facts: Mapping[str, Any]) -> dict[str, object]:
    """The row of the table `models` for a record's fields."""
    return {**facts, "record": number, "classes": json.dumps(facts["classes"])}


def model_from_row(row: Mapping[str, Any]) -> ModelIdentity:
    """The model of a row of the table `models`."""
    found = {entry.name: row[entry.name] for entry in fields(ModelIdentity)}
    return ModelIdentity(**{**found, "classes": tuple(json.loads(row["classes"]))})


def read_answer(facts: Mapping[str, Any]) -> ImageAnswer:
    """The answer in the payload of a record."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in facts["answer"].items()
    }
    return ImageAnswer(**values)


def read_source(facts: Mapping[str, Any]) -> Source | None:
    """The DICOM file in the payload of a record; None if the image is of none."""
    return Source(**facts["source"]) if "source" in facts else None


def image_text(image: NewImage) -> str:
    """What the record of an image has as text: the file's name, and the attributes if any are kept.

    With attributes it is JSON; the record's payload then has their keywords as `attributes`.
    """
    if not image.kept:
        return image.name
    return json.dumps([image.name, {key: clean_text(text) for key, text in image.kept.items()}])


def read_image_text(facts: Mapping[str, Any], text: str) -> tuple[str, dict[str, str]]:
    """Name and attributes of an image from what `image_text` made; both empty if it was erased."""
    if not text or "attributes" not in facts:
        return text, {}
    name, attributes = json.loads(text)
    return name, attributes


@dataclass
class CaseHistory:
    """The images, reviews and signatures of a case, from its records in their order."""

    images: dict[str, CaseImage] = field(default_factory=dict)
    reviews: dict[str, list[Review]] = field(default_factory=dict)
    signatures: list[Signature] = field(default_factory=list)
    label: str = ""
    gone: set[str] = field(default_factory=set)  # images that are no longer kept
    erased: bool = False

    def follow(self, record: Record, text: str | None) -> None:
        """Adds a record of the case.

        Args:
            record: Of the case.
            text: What a person typed, if it is still there.
        """
        kind, facts = record.kind, record.facts
        if kind == OPENED:
            self.label = text or ""
        elif kind == ANSWERED and record.image_id:
            name, attributes = read_image_text(facts, text or "")
            self.images[record.image_id] = CaseImage(
                record.image_id, facts["number"], name, record.time, read_answer(facts),
                kept="stored" in facts, upload=facts.get("upload", ""), source=read_source(facts),
                attributes=attributes,
            )  # fmt: skip
        elif kind == REVIEWED and record.image_id:
            finding, overrides = facts["finding"], facts["overrides"]
            held = facts["image_held"]
            review = Review(record.user_name, record.time, finding, overrides, text or "", held)
            self.reviews.setdefault(record.image_id, []).append(review)
        elif kind == SIGNATURE:
            covered = f"{record.number - 1}:{record.previous}"
            self.signatures.append(Signature(record.user_name, record.time, covered))
        elif kind == EXPIRED:
            self.gone.update(facts["images"])
        elif kind == ERASURE:
            self.erased = True
        if kind in (ANSWERED, REVIEWED):
            self.signatures.clear()  # they signed something else

    def case(self, row: CaseRow, model: ModelIdentity) -> Case:
        """The case, with its row and its model."""
        return Case(
            row.id, self.label, row.opened_by, row.opened_at, row.model_sha256, model.name,
            model.classes, row.status, row.version, row.signatures_needed,
            tuple(self._images()), tuple(self.signatures), row.site,
        )  # fmt: skip

    def _images(self) -> Iterable[CaseImage]:
        for image in self.images.values():
            reviews = tuple(self.reviews.get(image.id, ()))
            kept = image.kept and not self.erased and image.id not in self.gone
            if reviews or kept != image.kept:
                yield replace(image, reviews=reviews, kept=kept)
            else:
                yield image
