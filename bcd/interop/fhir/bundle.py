"""A case as a transaction Bundle, which may be posted again and changes nothing then.

Every resource has an identifier made of the case's or image's id. Observations and the document are
updated by it (`PUT Observation?identifier=…`). The report is created once, empty (`placeholder`),
and then updated as the version that was read before (`ifMatch`), so that a request that arrives
late changes nothing either. The Device is not part of the Bundle, as cases share it: transactions
that make it at the same time would make two.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bcd.config.disclaimer import DISCLAIMER
from bcd.interop import codes
from bcd.interop.fhir.case import REGISTERED, ReportedCase
from bcd.interop.fhir.observations import observation
from bcd.interop.fhir.parts import Json, coding, concept, instant, narrative, subject, text

_CATEGORY = coding("v2-0074", "HM", "Hematology")


@dataclass(frozen=True)
class Identifiers:
    """Identifiers of a server's resources.

    Attributes:
        base: Address of the server, `url` of the configuration; another one makes others.
    """

    base: str

    def of(self, kind: str, value: str) -> Json:
        """An identifier; `kind` is `case`, `image`, `document` or `model`."""
        return {"system": f"{self.base.rstrip('/')}/fhir/{kind}", "value": value}

    @property
    def version_url(self) -> str:
        """URL of the extension that says of which version of the case a report is."""
        return f"{self.base.rstrip('/')}/fhir/case-version"


def search(identifier: Json) -> str:
    """The query that finds a resource by its identifier, without the resource's type."""
    return f"identifier={quote('|'.join((identifier['system'], identifier['value'])), safe='')}"


def placeholder(case: ReportedCase, names: Identifiers) -> Json:
    """The DiagnosticReport before there is anything in it."""
    report = _report(case, names)
    kept = ("resourceType", "identifier", "category", "code")
    return _valid("DiagnosticReport", {
        **{name: report[name] for name in kept},
        "text": narrative(DISCLAIMER),
        "status": REGISTERED,
        "conclusion": DISCLAIMER,
    })  # fmt: skip


def transaction(
    case: ReportedCase,
    names: Identifiers,
    server: str,
    report_id: str,
    if_match: str,
    model: str,
) -> Json:
    """The Bundle that makes the resources of a case as they are now.

    Args:
        case: The case.
        names: Make its identifiers.
        server: Base of the FHIR server.
        report_id: Id of its DiagnosticReport on the FHIR server.
        if_match: ETag of the version of that report that is replaced; empty if it has none.
        model: Reference to the model's Device; not used if the case is erased.

    Raises:
        ValueError: It does not validate.
    """
    made = [observation(case, image, names.of("image", image.id), model) for image in case.images]
    entries = [_entry(each) for each in made]
    report = {**_report(case, names), "id": report_id}
    if not case.erased:
        report["result"] = [{"reference": _urn(each)} for each in made]
    place = f"DiagnosticReport/{report_id}"
    if case.documented:
        entries.append(_entry(_document(case, names, place)))
    request = {"method": "PUT", "url": place} | ({"ifMatch": if_match} if if_match else {})
    full = f"{server.rstrip('/')}/{place}"
    entries.append({"fullUrl": full, "resource": report, "request": request})
    return _valid("Bundle", {"resourceType": "Bundle", "type": "transaction", "entry": entries})


def version_of(report: Json, names: Identifiers) -> str:
    """The version of the case that a DiagnosticReport is of; empty for a placeholder."""
    for each in report.get("extension") or ():
        if each.get("url") == names.version_url:
            return str(each.get("valueString", ""))
    return ""


def _entry(resource: Json) -> Json:
    query = search(resource["identifier"][0])
    request = {"method": "PUT", "url": f"{resource['resourceType']}?{query}"}
    return {"fullUrl": _urn(resource), "resource": resource, "request": request}


def _urn(resource: Json) -> str:
    """The same for every Bundle that has the resource."""
    name = f"{resource['resourceType']}?{search(resource['identifier'][0])}"
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}"


def device(case: ReportedCase, names: Identifiers) -> Json:
    """The Device of the model that answered a case."""
    model = case.model
    versions = {"sha256 of the model's file": model.sha256, "bcd": model.version}
    return _valid("Device", {
        "resourceType": "Device",
        "text": narrative(DISCLAIMER, f"Model {model.name}, sha256 {model.sha256}"),
        "identifier": [names.of("model", model.sha256)],
        "status": "active",
        "deviceName": [{"name": text(model.name), "type": "model-name"}],
        "type": concept(codes.MODEL),
        "version": [
            {"type": {"text": name}, "value": text(value)} for name, value in versions.items()
        ],
        "note": [{"text": DISCLAIMER}],
    })  # fmt: skip


def _report(case: ReportedCase, names: Identifiers) -> Json:
    conclusion = f"{DISCLAIMER} {_summary(case)}"
    made: Json = {
        "resourceType": "DiagnosticReport",
        "text": narrative(DISCLAIMER, _summary(case)),
        "extension": [{"url": names.version_url, "valueString": case.version}],
        "identifier": [names.of("case", case.id)],
        "status": case.status,
        "category": [_CATEGORY],
        "code": concept(codes.SMEAR_FINDING),
        "issued": instant(case.changed_at),
        "conclusion": conclusion,
    }
    if case.erased:
        return made
    if case.site:
        made["performer"] = [{"type": "Organization", "display": text(case.site)}]
    if case.label:
        made["identifier"].append({"value": text(case.label), "type": {"text": "label"}})
    if case.patient:
        made["subject"] = subject(case.patient, case.issuer)
    made["effectiveDateTime"] = instant(case.opened_at)
    smear = {
        "resourceType": "Specimen",
        "id": "smear",
        "type": concept(codes.SMEAR, "blood smear"),
    }
    made["contained"] = [smear]
    made["specimen"] = [{"reference": "#smear"}]
    if case.signers:
        made["resultsInterpreter"] = [{"display": text(name)} for name in case.signers]
    return made


def _summary(case: ReportedCase) -> str:
    if case.erased:
        return "This case was erased."
    stands = (
        image.finding or ("waits for a review" if image.waits else "no answer")
        for image in case.images
    )
    counts = "; ".join(f"{name}: {count}" for name, count in sorted(Counter(stands).items()))
    referred = sum(image.referred for image in case.images)
    settings = dict.fromkeys(image.settings for image in case.images if image.settings)
    return text(" ".join([f"Images: {len(case.images)}, {referred} referred. {counts}", *settings]))


def _document(case: ReportedCase, names: Identifiers, report: str) -> Json:
    made: Json = {
        "resourceType": "DocumentReference",
        "text": narrative(DISCLAIMER, _summary(case)),
        "identifier": [names.of("document", case.id)],
        "status": "entered-in-error" if case.erased else "current",
        "type": concept(codes.LABORATORY_REPORT),
        "description": DISCLAIMER,
        "context": {"related": [{"reference": report}]},
    }
    if case.document is None:
        made["content"] = [{"attachment": {"title": "erased"}}]
        return made
    document = case.document
    if case.patient:
        made["subject"] = subject(case.patient, case.issuer)
    # The statuses of documents that R4B knows besides: final and amended are those of the report.
    made["docStatus"] = case.status
    made["date"] = instant(case.changed_at)
    made["content"] = [{
        "attachment": {
            "contentType": document.media_type,
            "data": base64.b64encode(document.data).decode(),
            "size": len(document.data),
            "hash": base64.b64encode(hashlib.sha1(document.data).digest()).decode(),
            "title": f"Report of case {case.id}",
            "creation": instant(case.changed_at),
        }
    }]  # fmt: skip
    return made


def _valid(kind: str, resource: Json) -> Json:
    """The resource, once the models of fhir.resources have accepted it.

    Raises:
        ValueError: They do not.
    """
    from fhir.resources.R4B import get_fhir_model_class

    model: Any = get_fhir_model_class(kind)
    model.model_validate(resource)
    return resource
