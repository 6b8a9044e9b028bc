"""Requests to a FHIR server, and what their answers mean.

No error has anything of an answer but its status and, of an OperationOutcome, the code of its first
issue, as servers may quote what they were sent.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcd.config.interop import FhirConfig

if TYPE_CHECKING:
    import httpx

Json = dict[str, Any]

_TYPE = "application/fhir+json"
_MOST = 64 << 20  # bytes of an answer
_LONGEST = 86_400.0  # seconds of a Retry-After
_AGAIN = (401, 403, 408, 425, 429)  # a token may be renewed, and the others say so
_STALE = (409, 412)
_CODE = re.compile("[a-z-]{1,32}")
_ID = "[A-Za-z0-9.-]{1,64}"
_PLACE = re.compile(f"DiagnosticReport/({_ID})(?:/_history/({_ID}))?$")


class DeliveryError(Exception):
    """A case was not delivered, as far as is known.

    Args:
        reason: For staff; nothing personal.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LaterError(DeliveryError):
    """Another try may succeed.

    Args:
        reason: For staff.
        after: Seconds that the server wants to be left alone; None if it did not say.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class StaleError(LaterError):
    """The server has another version than the one that was read: read it again."""


class RefusedError(DeliveryError):
    """The same request would never succeed."""


@dataclass(frozen=True)
class Found:
    """A DiagnosticReport on the server.

    Attributes:
        id: Of the server.
        etag: Of its version; empty if the server has no versions.
        report: The resource; empty if it has just been made.
    """

    id: str
    etag: str
    report: Json


class FhirClient:
    """Requests to one FHIR server; close it at the end.

    Methods raise `LaterError`, `StaleError` or `RefusedError`.

    Args:
        cfg: Its address, token and time limit.
    """

    def __init__(self, cfg: FhirConfig) -> None:
        import httpx

        assert cfg.url is not None
        self.base = cfg.url.rstrip("/")
        self._cfg = cfg
        self._http = httpx.AsyncClient(
            timeout=cfg.timeout_seconds,
            headers={"Accept": _TYPE},
            follow_redirects=False,
            trust_env=self.base.startswith("https:"),  # no proxy gets what is not encrypted
        )

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def find(self, query: str, identifier: Json) -> Found | None:
        """The DiagnosticReport with an identifier.

        Args:
            query: Finds it.
            identifier: That it has to have, as servers may ignore what they do not know.
        """
        headers = {"Cache-Control": "no-cache"}  # HAPI repeats results of searches otherwise
        _, _, bundle = await self._send("GET", f"/DiagnosticReport?{query}", None, headers)
        resources = [each.get("resource") or {} for each in _entries(bundle, "searchset")]
        found = [
            each for each in resources
            if each.get("resourceType") == "DiagnosticReport"
            and any(_same(one, identifier) for one in each.get("identifier") or ())
        ]  # fmt: skip
        if len(found) > 1:
            raise RefusedError("the server has several reports with the identifier of this case")
        if not found:
            return None
        return Found(*_known(found[0]), found[0])

    async def create(self, query: str, report: Json) -> Found | None:
        """Makes a DiagnosticReport unless there is one; None if that has to be looked for."""
        headers = {"If-None-Exist": query, "Prefer": "return=minimal"}
        status, answered, _ = await self._send("POST", "/DiagnosticReport", report, headers)
        place = _PLACE.search(answered.get("location", ""))
        if status != 201 or place is None:
            return None
        made, version = place.groups()
        return Found(made, f'W/"{version}"' if version else "", {})

    async def post(self, bundle: Json) -> None:
        """Posts a transaction, of which nothing is done if this raises anything but LaterError."""
        headers = {"Prefer": "return=minimal"}
        _, _, answer = await self._send("POST", "", bundle, headers)
        entries = _entries(answer, "transaction-response")
        done = [str((each.get("response") or {}).get("status", ""))[:1] == "2" for each in entries]
        if len(done) != len(bundle["entry"]) or not all(done):
            raise LaterError("the answer does not say that everything was done")

    async def _send(
        self, method: str, path: str, body: Json | None, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], Json]:
        """Status, headers and JSON of an answer that says yes."""
        import httpx

        given = {**headers, **self._token()}
        content = None
        if body is not None:
            given["Content-Type"] = _TYPE
            content = await asyncio.to_thread(lambda: json.dumps(body).encode())
        limit = self._cfg.timeout_seconds
        try:
            # Also of an answer that comes byte by byte, each in time.
            made = self._exchange(method, self.base + path, given, content)
            response, data = await asyncio.wait_for(made, limit)
        except (asyncio.TimeoutError, httpx.TimeoutException):
            raise LaterError("no answer in time") from None
        except httpx.HTTPError as error:  # its text may hold the address or parts of an answer
            raise LaterError(f"no connection or half an answer ({type(error).__name__})") from None
        plain = await asyncio.to_thread(_read_json, data)
        if response.status_code in (200, 201):
            if plain is None and response.status_code == 200:
                raise LaterError("the answer cannot be read")
            return response.status_code, response.headers, plain or {}
        raise _error(response, plain)

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[httpx.Response, bytes]:
        async with self._http.stream(method, url, headers=headers, content=content) as response:
            data = bytearray()
            async for part in response.aiter_bytes():
                data += part
                if len(data) > _MOST:
                    raise LaterError("the answer is too long")
        return response, bytes(data)

    def _token(self) -> dict[str, str]:
        if self._cfg.token_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {read_token(Path(self._cfg.token_file))}"}
        except (OSError, ValueError):
            raise LaterError("fhir.token_file cannot be read, or has no token") from None


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        OSError: It cannot be read.
        ValueError: There is none in it, or something else.
    """
    token = file.read_text(encoding="ascii").strip()
    if not token or not token.isprintable() or " " in token:
        raise ValueError
    return token


def _read_json(data: bytes) -> Json | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _entries(bundle: Json, kind: str) -> list[Json]:
    entries = bundle.get("entry") or []
    if bundle.get("resourceType") != "Bundle" or bundle.get("type") != kind:
        raise LaterError(f"the answer is not a Bundle of type {kind}")
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise LaterError("the answer cannot be read")
    return entries


def _known(report: Json) -> tuple[str, str]:
    """Id and ETag of a report that was found."""
    number = report.get("id")
    version = (report.get("meta") or {}).get("versionId")
    if not isinstance(number, str) or not re.fullmatch(_ID, number):
        raise LaterError("the answer has a report without an id")
    if version is None:
        return number, ""
    if not isinstance(version, str) or not re.fullmatch(_ID, version):
        raise LaterError("the answer has a report with a version that is none")
    return number, f'W/"{version}"'


def _same(identifier: object, wanted: Json) -> bool:
    return isinstance(identifier, dict) and all(
        identifier.get(name) == value for name, value in wanted.items()
    )


def _error(response: httpx.Response, plain: Json | None) -> DeliveryError:
    status = response.status_code
    issue = ((plain or {}).get("issue") or [{}])[0]
    code = issue.get("code") if isinstance(issue, dict) else None
    known = isinstance(code, str) and _CODE.fullmatch(code)
    reason = f"HTTP {status} ({code})" if known else f"HTTP {status}"
    if status in _STALE:
        return StaleError(reason)
    if status in _AGAIN or status >= 500:
        return LaterError(reason, _retry_after(response.headers.get("retry-after")))
    return RefusedError(reason)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After, at most a day; None if it says nothing."""
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else _seconds_until(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST)


def _seconds_until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()
