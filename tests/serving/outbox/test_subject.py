"""Of whom a report is: of nobody unless that is certain."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from bcd.interop.fhir.parts import subject
from bcd.serving.outbox.build import subject_of
from bcd.serving.records.cases import CaseImage
from tests.serving.outbox.making import new_case, posting

ID, ISSUER, NAME = "PatientID", "IssuerOfPatientID", "PatientName"
MULLER = "M\ufffdller"  # or Möller: a letter that could not be read


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> CaseImage:
    """An image of a case."""
    with posting(tmp_path_factory.mktemp("records"), "http://127.0.0.1:9/r4") as post:
        first: CaseImage = post.records.case(new_case(post, 1)).images[0]
    return first


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ([{}], ("", "")),
        ([{ID: "1"}, {}, {ID: "1"}], ("1", "")),
        ([{}, {ID: "1", ISSUER: "A"}], ("1", "A")),
        ([{ID: "1"}, {ID: "2"}], ("", "")),
        ([{ID: "1", ISSUER: "A"}, {ID: "1", ISSUER: "B"}], ("", "")),
        ([{ID: "1", ISSUER: "A"}, {ID: "1"}], ("", "")),
        ([{ID: "1", ISSUER: "A; B"}], ("", "")),
        ([{ID: "1;"}], ("", "")),
        ([{ID: "1", NAME: "Doe"}, {NAME: "Roe"}], ("", "")),
        ([{ID: "1", NAME: "Doe"}, {ID: "1", NAME: "Doe^Jane"}], ("1", "")),
        ([{ID: "1", NAME: "Doe"}, {ID: "1", NAME: "Doe^Jane"}, {}], ("", "")),
        ([{ID: "1"}, {ID: "1", NAME: "Doe"}, {NAME: "Roe"}], ("", "")),
        ([{ID: "1"}, {ID: "1", NAME: "Doe"}, {NAME: "Doe"}, {}], ("1", "")),
        ([{ID: "1"}, {NAME: "Roe"}], ("", "")),
        ([{ID: "1", NAME: MULLER}, {NAME: MULLER}], ("", "")),
        ([{ID: "1", NAME: MULLER}, {ID: "1", NAME: MULLER}, {}], ("", "")),
        ([{ID: "1", NAME: MULLER}, {}], ("1", "")),
    ],
)
def test_a_report_has_a_subject_only_if_it_is_certain(
    kept: list[dict[str, str]], found: tuple[str, str], image: CaseImage
) -> None:
    images = [replace(image, attributes=each) for each in kept]
    assert {subject_of(order) for order in permutations(images)} == {found}


def test_a_subject_says_who_gave_the_number() -> None:
    identifier = subject("1", "A")["identifier"]
    assert identifier == {"value": "1", "assigner": {"display": "A"}}
    assert "assigner" not in subject("1", "")["identifier"]
