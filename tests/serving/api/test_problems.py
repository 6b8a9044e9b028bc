"""Errors as answers, headers of every answer, what is logged, and the figures for Prometheus."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from bcd.config.disclaimer import DISCLAIMER
from bcd.config.serve import LogConfig
from bcd.serving.monitoring.drift import DISTANCES, REFERRAL
from bcd.serving.records.chain import Ledger
from bcd.serving.web.logs import configure_logs
from bcd.serving.web.observed import CSP
from tests.serving.making import no_smear, smear
from tests.serving.running import PASSWORD, Running

PNG = {"Content-Type": "image/png"}
HTML = {"Accept": "text/html"}


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """What is logged, as JSON."""
    configure_logs(LogConfig("json", "debug"))
    stream = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(stream))
    yield stream
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/predict", 405),
        ("GET", "/v1/cases/0000000000000000", 404),
        ("POST", "/v1/cases", 422),
        ("GET", "/v1/cases?limit=0", 422),
        ("GET", "/v1/cases?limt=5", 422),
    ],
)
def test_errors_of_the_api_are_problem_details(
    served: Running, method: str, path: str, status: int
) -> None:
    got = served.all.request(method, path, headers=HTML)
    assert got.status_code == status
    assert got.headers["content-type"] == "application/problem+json"
    told = got.json()
    assert told["status"] == status and told["title"] and told["detail"]
    assert told["request_id"] == got.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/healthz", "/cases", "/v1/cases", "/static/serve.css"])
def test_head_is_like_get_without_a_body(served: Running, path: str) -> None:
    head, get = (served.all.request(method, path) for method in ("HEAD", "GET"))
    assert head.status_code == get.status_code == 200 and head.content == b""
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/cases", "GET, HEAD, POST"), ("/v1/predict", "POST"), ("/static/serve.css", "GET, HEAD")],
)
def test_405_names_every_method(served: Running, path: str, allowed: str) -> None:
    got = served.all.request("DELETE", path)
    assert (got.status_code, got.headers["allow"]) == (405, allowed)


def test_errors_of_pages_are_pages_with_the_disclaimer(served: Running) -> None:
    got = served.all.get("/nothing", headers=HTML)
    assert got.status_code == 404
    assert got.headers["content-type"].startswith("text/html")
    assert DISCLAIMER in got.text and "There is nothing at this address." in got.text


def test_htmx_goes_to_the_login_when_nobody_is_logged_in(served: Running) -> None:
    current = {"HX-Request": "true", "HX-Current-URL": "http://127.0.0.1/cases/1"}
    got = served.client.get("/cases", headers=current)
    assert got.status_code == 401
    assert got.headers["hx-redirect"] == "/login?next=%2Fcases%2F1"


def test_a_fault_is_told_and_logged_without_its_message(
    served: Running, monkeypatch: pytest.MonkeyPatch, logs: io.StringIO
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("Anna Beispiel, born 1970")

    monkeypatch.setattr(served.services.records, "cases", fail)
    for headers in ({}, HTML):
        got = served.all.get("/v1/cases", headers=headers)
        assert got.status_code == 500
        assert "Anna" not in got.text and "ValueError" not in got.text
        assert got.headers["content-security-policy"] == CSP
    lines = [json.loads(line) for line in logs.getvalue().splitlines()]
    faults = [line for line in lines if line["event"] == "failed"]
    assert [fault["kind"] for fault in faults] == ["ValueError"] * 2
    assert all("test_problems.py" in fault["where"] for fault in faults)
    assert "Anna" not in json.dumps(lines)


@pytest.mark.parametrize("path", ["/", "/login", "/nothing", "/v1/cases", "/static/serve.css"])
def test_every_answer_has_the_headers(served: Running, path: str) -> None:
    got = served.all.get(path, headers=HTML)
    assert got.headers["content-security-policy"] == CSP
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["x-frame-options"] == "DENY"
    assert re.fullmatch("[0-9a-f]{16}", got.headers["x-request-id"])
    assert "cache-control" in got.headers
    assert "server" not in got.headers


def test_only_static_files_are_kept_by_browsers(served: Running) -> None:
    style = served.all.get("/static/serve.css")
    assert style.headers["cache-control"] == "no-cache"
    again = {"If-None-Match": style.headers["etag"]}
    assert served.all.get("/static/serve.css", headers=again).status_code == 304
    assert served.all.get("/v1/cases").headers["cache-control"] == "no-store"


def test_a_line_of_log_says_nothing_of_images_names_or_texts(
    served: Running, logs: io.StringIO
) -> None:
    secret = "Anna-Beispiel"
    case = served.all.post("/v1/cases", json={"label": secret}).json()["id"]
    files = [("images", (f"{secret}.png", image, "image/png")) for image in (smear(), b"none")]
    added = served.all.post(f"/v1/cases/{case}/images", files=files).json()["images"]
    for image in added:
        path = f"/v1/cases/{case}/images/{image['id']}/review"
        body = {"finding": "Unidentified", "remark": secret}
        assert served.all.post(path, json=body).status_code == 204
    served.all.get(f"/cases/{case}?q={secret}", headers=HTML)
    served.client.post(
        "/login",
        data={"name": secret, "password": PASSWORD},
        headers={"Origin": "http://127.0.0.1"},
    )
    served.all.post("/v1/predict", content=smear(), headers=PNG | {"X-Name": secret})
    told = logs.getvalue()
    token = served.all.headers["Authorization"].split()[1]
    for word in (secret, PASSWORD, token, case, added[0]["answer"]["sha256"]):
        assert word not in told
    lines = [json.loads(line) for line in told.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 7
    keys = {"event", "level", "method", "ms", "request", "route", "status", "timestamp", "user"}
    assert all(set(line) == keys for line in requests)
    assert "/v1/cases/{case_id}/images" in {line["route"] for line in requests}


def _figures(served: Running) -> dict[str, float]:
    lines = served.client.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_metrics_count_requests_and_answers(served: Running) -> None:
    before = _figures(served)
    files = [("images", ("a.png", image, "image/png")) for image in (smear(), no_smear(), b"none")]
    answers = served.all.post("/v1/predict", files=files).json()["images"]
    served.all.get("/v1/cases/secret-1?x=secret-2")
    served.client.request("SECRET", "/v1/cases")
    after = _figures(served)

    def more(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    predicted = 'bcd_requests_total{method="POST",route="/v1/predict",status="200"}'
    assert more(predicted) == 1
    assert more('bcd_request_seconds_count{route="/v1/predict"}') == 1
    assert more('bcd_requests_total{method="other",route="/v1/cases",status="405"}') == 1
    for answer in answers:
        referred = str(answer["refer"]).lower()
        labels = f'answer="{answer["class"] or "none"}",referred="{referred}",site=""'
        name = f"bcd_answers_total{{{labels}}}"
        assert more(name) >= 1
    counted = sum(more(name) for name in after if name.startswith("bcd_answers_total"))
    assert counted == len(answers)
    assert {after[f'bcd_alarms{{alarm="{name}",site=""}}'] for name in (REFERRAL, DISTANCES)} == {0}
    assert after["bcd_queue_images"] == 0 and after["bcd_ready"] == 1
    assert not any("secret" in name.lower() for name in after)


def test_the_server_is_not_ready_while_it_stops_or_without_records(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert served.client.get("/readyz").json() == {"status": "ok"}
    served.app.state.stopping = True
    stopping = served.client.get("/readyz")
    served.app.state.stopping = False
    assert stopping.status_code == 503 and "stopping" in stopping.json()["detail"]
    assert served.client.get("/healthz").status_code == 200
    monkeypatch.setattr(served.services.engine, "ready", lambda: "no image can be answered")
    got = served.client.get("/readyz")
    assert got.status_code == 503 and got.json()["detail"] == "no image can be answered"


def test_the_server_is_not_ready_after_a_failed_write(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ready() -> tuple[int, str]:
        got = served.client.get("/readyz")
        return got.status_code, got.json().get("detail", "")

    def full(*_: object) -> str:
        raise sqlite3.OperationalError("database or disk is full")

    label, writer = {"json": {"label": "a"}}, served.services.records._writer
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", full)
        assert served.all.post("/v1/cases", **label).status_code == 507
        status, why = ready()
        assert status == 503 and "full" in why
        patch.setattr(writer, "_failed_at", writer._failed_at - 31)  # nobody has tried since
        assert ready() == (200, "")
        assert served.all.post("/v1/cases", **label).status_code == 507
        assert ready()[0] == 503
    assert served.all.post("/v1/cases", **label).status_code == 201
    assert ready() == (200, "")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_inode", 0)
        assert ready()[0] == 503
        patch.setattr(writer, "_inode", None)
        patch.setattr(writer, "_thread", threading.Thread())
        assert ready()[0] == 503
