"""Parts of FHIR resources, as JSON values."""

from __future__ import annotations

import time
import unicodedata
from html import escape
from typing import Any

from bcd.interop.codes import Concept

Json = dict[str, Any]

_XHTML = "http://www.w3.org/1999/xhtml"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"


def text(value: str) -> str:
    """A FHIR string: nothing that JSON, XML or FHIR forbids or that disguises text; not empty."""
    kept = "".join("\N{REPLACEMENT CHARACTER}" if _is_refused(c) else c for c in value)
    return kept.strip() or "none"


def _is_refused(c: str) -> bool:
    """Whether a character is a control, half of one, a bidirectional override, or none at all."""
    if c in "\t\n":
        return False
    kind, code = unicodedata.category(c), ord(c)
    return kind in ("Cc", "Cs") or c in _BIDIRECTIONAL or code & 0xFFFE == 0xFFFE


_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def concept(coded: Concept, said: str = "") -> Json:
    """A CodeableConcept; `said` is its text, which is the meaning otherwise."""
    coding = {"system": coded.system, "code": coded.code, "display": coded.meaning}
    return {"coding": [coding], "text": text(said or coded.meaning)}


def coding(system: str, code: str, display: str) -> Json:
    """A CodeableConcept of one of HL7's own code systems."""
    found = {"system": f"http://terminology.hl7.org/CodeSystem/{system}", "code": code}
    return {"coding": [{**found, "display": display}]}


def absent(code: str, display: str) -> Json:
    """Why there is no value: a CodeableConcept of data-absent-reason."""
    return {"coding": [{"system": _ABSENT, "code": code, "display": display}]}


def narrative(*lines: str) -> Json:
    """The lines as the resource's text, which is safe XHTML whatever they contain."""
    body = "".join(f"<p>{escape(text(line))}</p>" for line in lines)
    return {"status": "generated", "div": f'<div xmlns="{_XHTML}">{body}</div>'}


def subject(patient: str, issuer: str) -> Json:
    """A patient by PatientID, and who gave it, if known."""
    identifier: Json = {"value": text(patient)}
    if issuer:
        identifier["assigner"] = {"display": text(issuer)}
    return {"type": "Patient", "identifier": identifier}


def instant(seconds: float) -> str:
    """Seconds since 1970 as a FHIR instant, UTC."""
    whole, rest = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{rest:03d}Z"
