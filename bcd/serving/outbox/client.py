"""Requests to a FHIR server, and what their answers mean.

No error has anything of an answer but its status and, of an OperationOutcome, the code of its first
issue, as servers may quote what they were sent.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcd.config.interop import FhirConfig
from bcd.interop.fhir.bundle import search
from bcd.serving.certificates import fhir_context, kind_of

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
_PLACE = f"/({_ID})(?:/_history/({_ID}))?$"
_ETAG = re.compile(f'(?:W/)?"{_ID}"')
_MULTIPLE = "multiple-matches"  # FHIR's code of a 412 that no other try mends


class DeliveryError(Exception):
    """A case was not delivered, as far as is known.

    Args:
        reason: For staff; nothing personal.
        undone: Whether it is certain that the server has done nothing, and will not.
    """

    def __init__(self, reason: str, undone: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.undone = reason, undone


class LaterError(DeliveryError):
    """Another try may succeed.

    Args:
        reason: For staff.
        after: Seconds that the server wants to be left alone; None if it did not say.
        undone: As of `DeliveryError`.
    """

    def __init__(self, reason: str, after: float | None = None, undone: bool = False) -> None:
        super().__init__(reason, undone)
        self.after = after


class StaleError(LaterError):
    """The server has another version than the one that was read: read it again."""


class RefusedError(DeliveryError):
    """The same request would never succeed."""


@dataclass(frozen=True)
class Found:
    """A resource on the server.

    Attributes:
        id: Of the server.
        etag: Of its version; empty if the server has no versions.
        resource: It; empty if it has just been made.
    """

    id: str
    etag: str
    resource: Json


class FhirClient:
    """Requests to one FHIR server; close it at the end.

    Methods raise `LaterError`, `StaleError` or `RefusedError`.

    Args:
        cfg: Its address, certificates, token and time limit.

    Raises:
        ConfigError: A certificate cannot be used.
    """

    def __init__(self, cfg: FhirConfig) -> None:
        import httpx

        assert cfg.url is not None
        self.base = cfg.url.rstrip("/")
        self._cfg = cfg
        secure = self.base.startswith("https:")
        self._http = httpx.AsyncClient(
            timeout=cfg.timeout_seconds,
            headers={"Accept": _TYPE},
            follow_redirects=False,
            # Without TLS no authorities are read, which takes longer than a request.
            verify=fhir_context(cfg) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=secure,  # no proxy gets what is not encrypted
        )

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def find(self, kind: str, identifier: Json) -> list[Found]:
        """The resources of a type that have an identifier.

        Those that the server finds but that do not have it are left out, as servers may ignore what
        they do not know.
        """
        headers = {"Cache-Control": "no-cache"}  # HAPI repeats results of searches otherwise
        _, _, bundle = await self._send("GET", f"/{kind}?{search(identifier)}", None, headers)
        found = []
        for entry in _entries(bundle, "searchset"):
            resource = _object(entry.get("resource"))
            named = resource.get("identifier")
            if resource.get("resourceType") != kind or not isinstance(named, list):
                continue
            if any(_same(one, identifier) for one in named):
                found.append(Found(*_known(resource), resource))
        return found

    async def create(self, resource: Json) -> Found | None:
        """Makes a resource unless there is one with its first identifier.

        Returns:
            What was made; None if it has to be looked for.
        """
        kind, identifier = resource["resourceType"], resource["identifier"][0]
        headers = {"If-None-Exist": search(identifier), "Prefer": "return=minimal"}
        status, answered, _ = await self._send("POST", f"/{kind}", resource, headers)
        place = re.search(kind + _PLACE, answered.get("location", ""))
        if status != 201 or place is None:
            return None
        made, version = place.groups()
        etag = answered.get("etag", "") or (f'W/"{version}"' if version else "")
        # Without one a request that arrives late could not be refused.
        return Found(made, etag, {}) if _ETAG.fullmatch(etag) else None

    async def post(self, bundle: Json) -> None:
        """Posts a transaction, of which nothing is done if this raises anything but LaterError."""
        headers = {"Prefer": "return=minimal"}
        _, _, answer = await self._send("POST", "", bundle, headers)
        entries = _entries(answer, "transaction-response")
        statuses = [str(_object(each.get("response")).get("status", "")) for each in entries]
        done = [status[:1] == "2" for status in statuses]
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
            raise LaterError(f"no connection or half an answer ({kind_of(error)})") from None
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
            reason = "fhir.token_file cannot be read, or has no token"
            raise LaterError(reason, undone=True) from None


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


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _known(resource: Json) -> tuple[str, str]:
    """Id and ETag of a resource that was found."""
    number = resource.get("id")
    version = _object(resource.get("meta")).get("versionId")
    if not isinstance(number, str) or not re.fullmatch(_ID, number):
        raise LaterError("the answer has a resource without an id")
    if version is None:
        return number, ""
    if not isinstance(version, str) or not re.fullmatch(_ID, version):
        raise LaterError("the answer has a resource with a version that is none")
    return number, f'W/"{version}"'


def _same(identifier: object, wanted: Json) -> bool:
    return isinstance(identifier, dict) and all(
        identifier.get(name) == value for name, value in wanted.items()
    )


def _error(response: httpx.Response, plain: Json | None) -> DeliveryError:
    status = response.status_code
    issues = _object(plain).get("issue")
    code = _object(issues[0]).get("code") if isinstance(issues, list) and issues else None
    known = isinstance(code, str) and _CODE.fullmatch(code)
    reason = f"HTTP {status} ({code})" if known else f"HTTP {status}"
    undone = status < 500 and status != 408  # after these a proxy's server may still work
    if status in _STALE and code != _MULTIPLE:
        return StaleError(reason, undone=undone)
    if status in _AGAIN or status >= 500:
        return LaterError(reason, _retry_after(response.headers.get("retry-after")), undone)
    return RefusedError(reason, undone)


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
