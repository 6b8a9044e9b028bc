"""Parts of FHIR resources, as JSON values."""

from __future__ import annotations

import time
from html import escape
from typing import Any

from bcd.interop.codes import Concept

Json = dict[str, Any]

_XHTML = "http://www.w3.org/1999/xhtml"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"


def text(value: str) -> str:
    """A FHIR string: no control characters, and not empty."""
    kept = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in value
    )
    return kept.encode("utf-8", "replace").decode().strip() or "none"


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


def instant(seconds: float) -> str:
    """Seconds since 1970 as a FHIR instant, UTC."""
    whole, rest = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{rest:03d}Z"
