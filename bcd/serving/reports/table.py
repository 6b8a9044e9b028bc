"""A case as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving import words
from bcd.serving.records.cases import Case, CaseImage

# A spreadsheet takes a cell that starts with one of these for a formula. After the first four come
# their small and full-width forms and other signs that look like them, which some convert.
_FORMULA = "=+@\\-\ufe66\ufe62\ufe63\ufe6b\uff1d\uff0b\uff0d\uff20\u2212\u207a-\u207c\u208a-\u208c"
# What it may skip before them: blanks, quotes, and characters without a width.
_SKIPPED = '\\s"\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\\x00-\\x1f\\x7f'
# A cell begins at its start and, in a program that separates by something else, also after that.
_CELL = re.compile(f"(^|[;\\t\\r\\n|])(?=[{_SKIPPED}]*[{_FORMULA}])")


def columns(classes: Sequence[str]) -> list[str]:
    """Columns of a case's CSV; those of `predictions.csv` have their names."""
    return [
        "case", "site", "status", "number", "path", "sha256", "prediction", "probability",
        *[f"p_{name}" for name in classes], "malignant", "threshold", "profile", "prediction_set",
        "ood_score", "refer", "reason", "error", "finding", "overrides", "remark", "reviewed_by",
        "reviewed_at", "image_held", "dicom_sha256", "dicom_frame", "dicom_attributes", "model",
        "model_sha256", "signed_by", "signed_at", "head", "disclaimer",
    ]  # fmt: skip


def case_csv(case: Case, head: str) -> str:
    """Writes a case as CSV, a row per image in order of arrival.

    `finding` is empty while an image waits for a review. Every cell is quoted. Where a spreadsheet
    could see a formula, also one that separates cells by semicolon or tab, there is an apostrophe.

    Args:
        case: With its images.
        head: Of the records, on each row.
    """
    stream = io.StringIO()
    write = csv.writer(stream, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    write.writerow(map(_cell, columns(case.classes)))
    for image in case.images:
        write.writerow(map(_cell, _row(case, image, head)))
    return stream.getvalue()


def _row(case: Case, image: CaseImage, head: str) -> list[object]:
    answer, review = image.answer, image.review
    each: Sequence[float | None] = answer.probabilities or (None,) * len(case.classes)
    return [
        case.label, case.site, case.status, image.number, image.name, answer.sha256,
        answer.predicted, max(answer.probabilities, default=None), *each, answer.malignant,
        answer.threshold, answer.profile,
        "; ".join(answer.prediction_set), answer.ood_score, answer.refer,
        "; ".join(answer.reasons), answer.error, None if image.waits else image.finding,
        review and review.overrides, review and review.remark, review and review.by,
        review and words.machine_utc(review.at), review and review.image_held,
        image.source and image.source.sha256, image.source and image.source.frame,
        "; ".join(f"{key}={text}" for key, text in image.attributes.items()), case.model_name,
        answer.model_sha256, "; ".join(signature.by for signature in case.signatures),
        "; ".join(words.machine_utc(signature.at) for signature in case.signatures), head,
        DISCLAIMER,
    ]  # fmt: skip


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6f}"
    return _CELL.sub(r"\1'", str(value))
