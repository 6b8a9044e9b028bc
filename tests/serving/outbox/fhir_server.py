"""A FHIR server on loopback: transactions, conditional requests, versions, and faults."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fhir.resources.R4B import get_fhir_model_class

Json = dict[str, Any]

# What may become of a request. The last four happen after it was carried out.
BEFORE = ("409", "412", "500", "503", "reset")
AFTER = ("lost", "late", "truncated", "garbage")


ISSUE = {"severity": "error", "code": "conflict", "diagnostics": "quotes a secret"}


class HttpError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(status)
        self.status, self.headers = status, headers


@dataclass
class FhirServer:
    """What the server has.

    Attributes:
        fault: Called for each request with its kind, `find`, `create`, `device` (its creation) or
            `transaction`; names a fault of `BEFORE` or `AFTER`, any other HTTP status, or nothing.
        issue: Of the OperationOutcome of an error.
        racing: Seconds between the search and the write of a conditional create of a Device, in
            which others may make one, too.
        created: Made of Location and ETag, the headers of what was created.
        slow: Seconds that a request of a `lost` or `late` answer takes longer than clients wait.
        go_on: Once it is set, requests of `late` answers are carried out at once.
        carried_out: Set when one was, or was refused.
        retry_after: Of a 503.
        history: Versions of each resource by type and id, the last one counts.
        requests: Method, path, headers and body of each request.
    """

    fault: Callable[[str], str] = lambda _: ""
    issue: object = field(default_factory=lambda: [ISSUE])
    racing: float = 0.0
    created: Callable[[str, str], dict[str, str]] = lambda location, _: {"Location": location}
    slow: float = 0.3
    go_on: threading.Event = field(default_factory=threading.Event)
    carried_out: threading.Event = field(default_factory=threading.Event)
    retry_after: str = "7"
    url: str = ""
    history: dict[tuple[str, str], list[Json]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    lock: threading.RLock = field(default_factory=threading.RLock)

    def now(self, kind: str) -> list[Json]:
        """The resources of a type as they are now."""
        with self.lock:
            return [versions[-1] for (each, _), versions in self.history.items() if each == kind]

    def identified(self, kind: str) -> dict[str, list[Json]]:
        """The resources of a type by the value of their first identifier."""
        found: dict[str, list[Json]] = defaultdict(list)
        for resource in self.now(kind):
            found[resource["identifier"][0]["value"]].append(resource)
        return found

    def search(self, kind: str, query: str) -> list[Json]:
        """Resources with the identifier that a query names."""
        system, _, value = parse_qs(query, strict_parsing=True)["identifier"][0].partition("|")
        return [
            each for each in self.now(kind)
            if any(one.get("system") == system and one["value"] == value
                   for one in each["identifier"])
        ]  # fmt: skip

    def create(self, query: str | None, resource: Json) -> tuple[int, Json]:
        """A conditional create."""
        _validate(resource)
        found = self.search(resource["resourceType"], query) if query else []
        if len(found) > 1:
            raise HttpError(412)
        if found:
            return 200, found[0]
        if resource["resourceType"] == "Device":
            time.sleep(self.racing)
        return 201, self._store(resource, str(next(self.numbers)))

    def transaction(self, bundle: Json) -> Json:
        """All of a transaction, or nothing."""
        _validate(bundle)
        before = deepcopy(self.history)
        try:
            return self._transaction(bundle)
        except HttpError:
            self.history = before
            raise

    def _transaction(self, bundle: Json) -> Json:
        places: dict[str, str] = {}
        todo: list[tuple[Json, str]] = []
        for entry in bundle["entry"]:
            resource, request = entry["resource"], entry["request"]
            place, _, query = request["url"].partition("?")
            if query:
                found = self.search(place, query)
                if len(found) > 1:
                    raise HttpError(412)
                place = f"{place}/{found[0]['id'] if found else next(self.numbers)}"
            elif (kept := self.history.get(tuple(place.split("/")))) is None:
                raise HttpError(404)
            elif request.get("ifMatch") != f'W/"{kept[-1]["meta"]["versionId"]}"':
                raise HttpError(412)
            places[entry["fullUrl"]] = place
            todo.append((resource, place))
        done = []
        for resource, place in todo:
            linked = json.loads(_linked(json.dumps(resource), places))
            stored = self._store(linked, place.split("/")[1])
            done.append({"response": {"status": "200", "location": _location(stored)}})
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": done}

    def _store(self, resource: Json, number: str) -> Json:
        versions = self.history.setdefault((resource["resourceType"], number), [])
        plain = {**resource, "id": number}
        if versions and {**versions[-1], "meta": None} == {**plain, "meta": None}:
            return versions[-1]  # as HAPI does: an update that changes nothing makes no version
        versions.append({**plain, "meta": {"versionId": str(len(versions) + 1)}})
        return versions[-1]


def _linked(text: str, places: dict[str, str]) -> str:
    for urn, place in places.items():
        text = text.replace(f'"{urn}"', f'"{place}"')
    if "urn:uuid:" in text:  # a reference that leads nowhere
        raise HttpError(400)
    return text


def _location(resource: Json) -> str:
    version = resource["meta"]["versionId"]
    return f"{resource['resourceType']}/{resource['id']}/_history/{version}"


def _validate(resource: Json) -> None:
    model: Any = get_fhir_model_class(resource["resourceType"])
    try:
        model.model_validate(resource)
    except ValueError as error:
        raise HttpError(422) from error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fhir: FhirServer

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        self._handle(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: object) -> None:
        """Prints nothing."""

    def _handle(self, body: bytes) -> None:
        kept = {name.lower(): value for name, value in self.headers.items()}
        self.fhir.requests.append((self.command, self.path, kept, body))
        made = {"DiagnosticReport": "create", "Device": "device"}
        kind = made.get(urlsplit(self.path).path.rpartition("/")[2], "transaction")
        kind = "find" if self.command == "GET" else kind
        fault = self.fhir.fault(kind)
        try:
            if fault == "reset":
                self._reset()
                return
            if fault.isdigit():
                after = {"Retry-After": self.fhir.retry_after} if fault == "503" else {}
                raise HttpError(int(fault), **after)
            if fault == "late":  # the client has given up when it is carried out
                self.fhir.go_on.wait(self.fhir.slow)
            if kind == "device" and self.fhir.racing:
                status, answer, headers = self._carry_out(body)
            else:
                with self.fhir.lock:
                    status, answer, headers = self._carry_out(body)
            if fault == "lost":
                time.sleep(self.fhir.slow)
            self._answer(status, answer, headers, fault)
        except HttpError as error:
            outcome = {"resourceType": "OperationOutcome", "issue": self.fhir.issue}
            self._answer(error.status, outcome, error.headers, "")
        except OSError:
            self.close_connection = True
        finally:
            if fault == "late":
                self.fhir.carried_out.set()

    def _carry_out(self, body: bytes) -> tuple[int, Json, dict[str, str]]:
        parts = urlsplit(self.path)
        if self.command == "GET":
            found = self.fhir.search(parts.path.rpartition("/")[2], parts.query)
            entries = [{"resource": each} for each in found]
            return 200, {"resourceType": "Bundle", "type": "searchset", "entry": entries}, {}
        resource = json.loads(body)
        if resource["resourceType"] == "Bundle":
            return 200, self.fhir.transaction(resource), {}
        status, stored = self.fhir.create(self.headers.get("If-None-Exist"), resource)
        etag = f'W/"{stored["meta"]["versionId"]}"'
        return status, stored, self.fhir.created(f"{self.fhir.url}/{_location(stored)}", etag)

    def _answer(self, status: int, answer: Json, headers: dict[str, str], fault: str) -> None:
        data = json.dumps(answer).encode() if fault != "garbage" else b"<html>proxy</html>"
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "truncated":
            self.wfile.write(data[: len(data) // 2])
            self._reset()
            return
        self.wfile.write(data)

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)  # closes with RST
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.wfile.flush()
        self.close_connection = True


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Says nothing of clients that are gone."""


@contextmanager
def fhir_server(tls: ssl.SSLContext | None = None) -> Iterator[FhirServer]:
    """Runs a server until the context ends.

    Args:
        tls: Of the server; None for none.
    """
    fhir = FhirServer()
    handler = type("Handler", (_Handler,), {"fhir": fhir})
    server = _Quiet(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    scheme = "http"
    if tls is not None:
        scheme, server.socket = "https", tls.wrap_socket(server.socket, server_side=True)
    fhir.url = f"{scheme}://127.0.0.1:{server.server_port}/r4"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fhir
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
