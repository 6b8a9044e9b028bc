"""Plain words and cleaned text, for pages and reports."""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Sequence

from bcd.evaluation.decision import DISAGREES, LOW_CONFIDENCE, MEMBERS_DISAGREE, OOD, UNDECIDED
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED, UNREADABLE
from bcd.interop.settings import site_settings
from bcd.serving.errors import UnprocessableError
from bcd.serving.records.cases import Case, CaseImage

# Reasons of answers, as the person who looks at the image should read them.
REASONS = {
    LOW_CONFIDENCE: "The model is not sure: no class is much more probable than the others.",
    OOD: "The image does not look like the images the model was trained on.",
    DISAGREES: "The class and the call of malignancy contradict each other.",
    MEMBERS_DISAGREE: "The members of the ensemble disagree.",
    UNDECIDED: "The model found nothing to decide by: all classes are equally probable.",
    UNREADABLE: "The file could not be read as an image.",
    NOT_FINITE: "The model gave no usable number.",
    UNCALIBRATED: "The model is not calibrated.",
}

# The same in a few words, for the cards of a case.
BRIEF_REASONS = {
    LOW_CONFIDENCE: "not sure",
    OOD: "unlike the training images",
    DISAGREES: "class and call of malignancy differ",
    MEMBERS_DISAGREE: "members disagree",
    UNDECIDED: "nothing to decide by",
    UNREADABLE: "unreadable file",
    NOT_FINITE: "no usable number",
    UNCALIBRATED: "not calibrated",
}

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def reason(short: str) -> str:
    """A reason to refer an image, as a sentence; itself if it is none of `REASONS`."""
    return REASONS.get(short, short)


def brief_reason(short: str) -> str:
    """A reason to refer an image in a few words; itself if it is none of `BRIEF_REASONS`."""
    return BRIEF_REASONS.get(short, short)


def case_settings(case: Case) -> list[str]:
    """What `site_settings` says of the answers of a case, each once; if not of all, of which."""
    said: dict[str, list[int]] = {}
    for image in case.images:
        if not image.answer.error:
            text = site_settings(image.answer.profile, image.answer.threshold)
            said.setdefault(text, []).append(image.number)
    if len(said) > 1:
        return [f"{_images(numbers)}: {text}" for text, numbers in said.items() if text]
    return [text for text in said if text]


def _images(numbers: Sequence[int]) -> str:
    """`Image 4`, or `Images 1 to 3, 7`; of rising numbers."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    listed = [f"{low} to {high}" if low < high else str(low) for low, high in spans]
    return f"{'Images' if len(numbers) > 1 else 'Image'} {', '.join(listed)}"


def percent(share: float) -> str:
    """A share in percent; never 100 or 0 % for what is not exactly that."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def score(value: float | None) -> str:
    """An out-of-distribution score; `none` if there is none."""
    return "none" if value is None or not math.isfinite(value) else f"{value:.2f}"


def finding(image: CaseImage) -> str:
    """What a report states about an image; the model's class only if nobody had to review it."""
    if image.waits:
        return "waits for a review"
    return image.finding or "none"


def missing_signatures(case: Case) -> str:
    """How many signatures a case still needs, such as `1 signature`; empty for none."""
    missing = case.signatures_needed - len(case.signatures)
    return f"{missing} signature{'s' * (missing > 1)}" if missing > 0 else ""


def utc(seconds: float) -> str:
    """A time since 1970 as date and time, UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def machine_utc(seconds: float) -> str:
    """A time since 1970 as in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def cleaned(text: str, what: str, most: int, lines: bool = False) -> str:
    """Text that a person typed, in Unicode's composed form and without spaces around it.

    Args:
        text: As typed.
        what: Names it in errors.
        most: Characters that it may have.
        lines: Whether it may have several lines.

    Raises:
        UnprocessableError: It is too long, or has control characters.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n")).strip()
    if len(text) > most:
        raise UnprocessableError(f"The {what} is longer than {most} characters.")
    if any(_is_control(c) and not (lines and c in "\n\t") for c in text):
        raise UnprocessableError(f"The {what} has control characters.")
    return text


def file_name(name: str, most: int = 255) -> str:
    """The last part of an uploaded file's name, for display; never used as a path."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1].strip()
    last = "".join(_REPLACEMENT if _is_control(c) else c for c in last)
    return last[:most] or "unnamed"


def _is_control(character: str) -> bool:
    # Cs: lone surrogates, which no database stores. Bidirectional overrides can disguise a name.
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDIRECTIONAL


_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
