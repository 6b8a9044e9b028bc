"""The Bundle of a case: valid, the same for the same case, and nothing that is not in the case."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from fhir.resources.R4B.bundle import Bundle

from bcd.config.disclaimer import DISCLAIMER
from bcd.interop import codes
from bcd.interop.codes import class_concept, probability_concept
from bcd.interop.fhir.bundle import Identifiers, placeholder, search, transaction, version_of
from bcd.interop.fhir.case import (
    AMENDED,
    ERASED,
    FINAL,
    PRELIMINARY,
    ReportedCase,
    ReportedDocument,
    ReportedImage,
    ReportedModel,
)
from bcd.interop.fhir.parts import text

NAMES = Identifiers("https://smears.example.org/")
SERVER = "https://fhir.example.org/r4"
CLASSES = ("Benign", "Early Pre-B", "Pre-B", "Pro-B", "<Ünbekannt> & Söhne")

SURE = ReportedImage(
    "a" * 16, 1, 1e9, 1e9, "1" * 64, dict(zip(CLASSES, (0.9, 0.05, 0.03, 0.02, 0.0), strict=True)),
    "Benign", False, ("Benign",), False, (), 0.5, False, "Benign", False, False,
)  # fmt: skip
WAITING = replace(
    SURE, id="b" * 16, number=2, referred=True, reasons=("out of distribution",), ood_score=1.75,
    out_of_distribution=True, finding=None, waits=True,
)  # fmt: skip
OVERRIDDEN = replace(
    WAITING, id="c" * 16, number=3, finding=CLASSES[-1], overridden=True, waits=False,
    remark="<b>no",
)  # fmt: skip
UNREAD = replace(
    WAITING, id="d" * 16, number=4, probabilities={}, predicted=None, malignant=None,
    prediction_set=(), ood_score=None, out_of_distribution=False, reasons=("unreadable",),
)  # fmt: skip
CASE = ReportedCase(
    "0123456789abcdef", f"17:{'e' * 64}", PRELIMINARY, 1e9, 1e9 + 0.25, "north", "lab <1>", "PAT-1",
    "HOSP", ("Ada",), ReportedModel("model & co", "f" * 64, "0.1.0"),
    (SURE, WAITING, OVERRIDDEN, UNREAD), None, False,
)  # fmt: skip
SIGNED = replace(
    CASE, status=AMENDED, images=(SURE, OVERRIDDEN), documented=True,
    document=ReportedDocument("application/pdf", b"%PDF-1.7 " + bytes(range(256))),
)  # fmt: skip
GONE = replace(SIGNED, status=ERASED, document=None, version=f"20:{'d' * 64}")


def bundle(case: ReportedCase) -> dict[str, Any]:
    return transaction(case, NAMES, SERVER, "1000", 'W/"3"', "Device/7")


def resources(case: ReportedCase, kind: str) -> list[dict[str, Any]]:
    found = [entry["resource"] for entry in bundle(case)["entry"]]
    return [each for each in found if each["resourceType"] == kind]


def components(observation: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Components by the code of what they are."""
    made: dict[str, list[dict[str, Any]]] = {}
    for each in observation["component"]:
        made.setdefault(each["code"]["coding"][0]["code"], []).append(each)
    return made


def plain_times(text: str) -> Any:
    """JSON with times that have no zeros at their ends, as each program writes them its own way."""
    return json.loads(re.sub(r'(\.\d*?)0+Z"', r'\1Z"', text).replace('.Z"', 'Z"'))


@pytest.mark.parametrize("case", [CASE, SIGNED, GONE, replace(CASE, patient="", label="")])
def test_a_bundle_is_valid_and_survives_a_round_trip(case: ReportedCase) -> None:
    made = bundle(case)
    read = Bundle.model_validate_json(json.dumps(made))
    assert plain_times(read.model_dump_json()) == plain_times(json.dumps(made))
    assert made == bundle(case), "posting again must change nothing"
    for entry in made["entry"]:
        resource, request = entry["resource"], entry["request"]
        said = [resource["text"]["div"], str(resource.get("note")), resource.get("conclusion", "")]
        assert DISCLAIMER in "".join([*said, resource.get("description", "")])
        ElementTree.fromstring(resource["text"]["div"])  # well-formed whatever was typed
        assert request["method"] == "PUT"
        if resource["resourceType"] == "DiagnosticReport":
            assert (request["url"], request["ifMatch"]) == ("DiagnosticReport/1000", 'W/"3"')
        else:
            query = search(resource["identifier"][0])
            assert request["url"] == f"{resource['resourceType']}?{query}"


def test_every_reference_leads_to_a_resource_of_the_bundle() -> None:
    made = bundle(SIGNED)
    urls = {entry["fullUrl"] for entry in made["entry"]} | {
        "#smear",
        "DiagnosticReport/1000",
        "Device/7",
    }

    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            own = {value["reference"]} if "reference" in value else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    found = references(made)
    assert found <= urls
    results = [entry["fullUrl"] for entry in made["entry"]][: len(SIGNED.images)]
    assert {"Device/7", *results} <= found


def test_an_observation_says_what_the_answer_says() -> None:
    sure, waiting, overridden, unread = resources(CASE, "Observation")
    for image, made in zip(CASE.images, (sure, waiting, overridden, unread), strict=True):
        parts = components(made)
        for name, probability in image.probabilities.items():
            [part] = parts[probability_concept(name).code]
            assert part["valueQuantity"]["value"] == pytest.approx(probability)
        [referred] = parts[codes.REFERRED.code]
        assert referred["valueBoolean"] is image.referred
        reasons = [one["valueString"] for one in parts.get(codes.REFERRAL_REASON.code, [])]
        assert reasons == list(image.reasons)
        [overrides] = parts[codes.OVERRIDDEN.code]
        assert overrides["valueBoolean"] is image.overridden
        sets = parts.get(codes.PREDICTION_SET.code, [])
        assert [one["valueCodeableConcept"]["text"] for one in sets] == list(image.prediction_set)
        assert made["identifier"][0]["value"] == image.id
    assert sure["valueCodeableConcept"]["coding"][0]["code"] == class_concept("Benign").code
    assert overridden["valueCodeableConcept"]["text"] == CLASSES[-1]
    # What has to be looked at has no value, though the model has a class for it.
    assert "valueCodeableConcept" not in waiting and "valueCodeableConcept" not in unread
    assert waiting["dataAbsentReason"]["coding"][0]["code"] == "temp-unknown"
    [model_class] = components(waiting)[codes.MODEL_CLASS.code]
    assert model_class["valueCodeableConcept"]["text"] == WAITING.predicted
    [nothing] = components(unread)[codes.MODEL_CLASS.code]
    assert nothing["dataAbsentReason"]["coding"][0]["code"] == "error"
    [score] = components(waiting)[codes.OOD_SCORE.code]
    assert score["valueQuantity"]["value"] == WAITING.ood_score


def test_statuses_follow_the_case() -> None:
    for status in (PRELIMINARY, FINAL, AMENDED):
        case = replace(SIGNED, status=status)
        [report] = resources(case, "DiagnosticReport")
        assert report["status"] == status
        plain, overridden = resources(case, "Observation")
        assert overridden["status"] == status
        assert plain["status"] == (FINAL if status == AMENDED else status)
    assert resources(CASE, "DocumentReference") == []
    registered = placeholder(CASE, NAMES)
    assert registered["status"] == "registered" and "PAT-1" not in json.dumps(registered)
    assert version_of(registered, NAMES) == ""
    assert version_of(report, NAMES) == SIGNED.version


def test_an_erased_case_has_nothing_but_identifiers() -> None:
    made = bundle(GONE)
    assert {entry["resource"]["status"] for entry in made["entry"]} == {"entered-in-error"}
    assert len(made["entry"]) == len(GONE.images) + 2
    said = json.dumps(made)
    for word in (
        "PAT-1",
        "north",
        "lab <1>",
        "Ada",
        "model & co",
        "0.9",
        *CLASSES,
        "component",
        "<b>no",
    ):
        assert word not in said and json.dumps(word)[1:-1] not in said, word


def test_the_document_can_be_checked() -> None:
    [reference] = resources(SIGNED, "DocumentReference")
    attachment = reference["content"][0]["attachment"]
    data = base64.b64decode(attachment["data"])
    assert SIGNED.document is not None and data == SIGNED.document.data
    assert attachment["size"] == len(data)
    assert base64.b64decode(attachment["hash"]) == hashlib.sha1(data).digest()


def test_what_is_not_known_is_left_out() -> None:
    bare = json.dumps(bundle(replace(CASE, site="", patient="", issuer="", label="", signers=())))
    full = json.dumps(bundle(CASE))
    for word in ("subject", "assigner", "resultsInterpreter", "performer", "PAT-1", "Ada"):
        assert word in full and word not in bare


def test_names_stay_what_they_are() -> None:
    joined = "a\N{ZERO WIDTH JOINER}b"
    for kept in ("山田\u3000太郎", "Jane\u00a0Doe", "left\tright\nnext", joined):
        report = bundle(replace(CASE, label=kept))["entry"][-1]["resource"]
        assert report["identifier"][1]["value"] == kept
    for refused in "\x00\x0b\x1b\x85\ud800\u202e\u2066\uffff":
        assert text(f"a{refused}b") == "a\ufffdb"
