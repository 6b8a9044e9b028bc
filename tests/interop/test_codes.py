"""Coded concepts: well-formed, one meaning each, all in one module and on one page."""

from __future__ import annotations

import re

from bcd.data.layouts import CANONICAL
from bcd.evaluation.decision import DISAGREES, LOW_CONFIDENCE, MEMBERS_DISAGREE, OOD, UNDECIDED
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED, UNREADABLE
from bcd.interop import codes
from bcd.interop.codes import Concept, class_concept, probability_concept, reason_concept
from tests.helpers.harness import ROOT

NAMES = [*CANONICAL, "<Ünbekannt> & Söhne", "Unidentified", "Pre B", "", "x" * 300, "a\0b"]
REASONS = [
    UNREADABLE, NOT_FINITE, UNCALIBRATED, LOW_CONFIDENCE, OOD, DISAGREES, MEMBERS_DISAGREE,
    UNDECIDED,
]  # fmt: skip
KNOWN = [value for value in vars(codes).values() if isinstance(value, Concept)]


def test_codes_fit_into_dicom_and_have_one_meaning() -> None:
    made = [*KNOWN, *map(class_concept, NAMES), *map(probability_concept, NAMES)]
    made += map(reason_concept, [*REASONS, *NAMES])
    meanings: dict[tuple[str, str], set[str]] = {}
    for each in made:
        assert 0 < len(each.code) <= 16 and 0 < len(each.meaning) <= 64 and each.system
        meanings.setdefault((each.scheme, each.code), set()).add(each.meaning)
    assert all(len(found) == 1 for found in meanings.values())
    assert len({class_concept(name).code for name in NAMES}) == len(NAMES)
    assert len({reason_concept(reason).code for reason in REASONS}) == len(REASONS)


def test_reasons_of_answers_have_codes_of_their_own() -> None:
    # A code from the words of a reason is not on the page.
    named = re.compile(r"r-[0-9a-f]{12}")
    assert not [one for one in REASONS if named.fullmatch(reason_concept(one).code)]
    assert named.fullmatch(reason_concept("a reason of a later version").code)


def test_the_page_about_codes_has_every_code_with_its_meaning() -> None:
    page = (ROOT / "docs" / "fhir.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for each in [*KNOWN, *map(class_concept, CANONICAL), *map(reason_concept, REASONS)]:
        assert any(f"`{each.code}` | {each.meaning}" in row for row in rows), each
    assert codes.LOCAL_UID in page


def test_no_other_module_makes_concepts() -> None:
    made = re.compile(r"(?<!\w)Concept\(")
    for file in (ROOT / "bcd" / "interop").rglob("*.py"):
        assert file.name == "codes.py" or not made.search(file.read_text("utf-8")), file
