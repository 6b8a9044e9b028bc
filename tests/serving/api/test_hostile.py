"""Hostile requests: nothing fails, nobody gets what they may not, and smears are answered."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from html import escape
from typing import Any

import pytest

from bcd.serving.accounts.user import ROLES
from tests.helpers.harness import ROOT
from tests.serving.api.test_permissions import OPEN, TABLE
from tests.serving.hostile import SCRIPT, Attacker, Hostile
from tests.serving.making import smear
from tests.serving.running import ALL, NOBODY, Running, running

COUNT, SEED = 1000, 20
NAMES = (NOBODY, *ROLES, ALL, ALL)
LIMITS = ("limits.image_mb=1", "limits.images=8", "limits.requests_per_minute=1000000")

# What an answer must not show of the server.
INSIDE = re.compile(
    rf"Traceback|site-packages|\.py\b|{re.escape(str(ROOT))}|sqlalchemy|sqlite", re.I
)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An app that forbids nothing by its number of requests."""
    with running(tmp_path_factory.mktemp("attacked"), *LIMITS) as app:
        yield app


def _ids(app: Running) -> dict[str, str]:
    """A case with an image."""
    case = app.all.post("/v1/cases", json={"label": "attacked"}).json()["id"]
    options: dict[str, Any] = {"content": smear(), "headers": {"Content-Type": "image/png"}}
    added = app.all.post(f"/v1/cases/{case}/images", **options).json()
    return {"case_id": case, "image_id": added["images"][0]["id"]}


def _allowed(request: Hostile) -> frozenset[str]:
    """Who may send such a request; everybody where there is no such route."""
    path = request.path.partition("?")[0]
    path = re.sub(r"^/users/[^/]+", "/users/{name}", path)
    return TABLE.get(f"{request.method} {path}", OPEN)


def test_a_thousand_hostile_requests(attacked: Running) -> None:
    ids, rng = _ids(attacked), random.Random(SEED)
    successes, cases = 0, []
    for number, request in enumerate(Attacker(SEED).requests(COUNT)):
        if number % 100 == 99:
            cases.append(ids["case_id"])
            ids = _ids(attacked)  # the last one may be signed or erased
        name = rng.choice(NAMES)
        path = request.path
        for key, value in ids.items():
            path = path.replace(f"{{{key}}}", value)
        user = attacked.users[name]
        try:
            got = user.request(request.method, path, **request.options)
        except (UnicodeError, ValueError):  # the client itself does not send it
            continue
        told = f"{number}: {name} {request.method} {path}: {got.status_code} {got.text[:300]}"
        assert got.status_code < 500, told
        if got.status_code < 300:
            successes += 1
            assert name == ALL or name in _allowed(request), told
        kind = got.headers.get("content-type", "")
        if not kind.startswith(("image/", "application/pdf", "text/css", "text/javascript")):
            assert not INSIDE.search(got.text), told
            assert "5332114" not in got.text, told  # a template was evaluated
        if kind.startswith("text/html"):
            assert SCRIPT not in got.text, told
        assert got.headers["x-content-type-options"] == "nosniff", told
    assert successes > COUNT / 50  # the requests get past the first checks
    _check_pages(attacked, cases)
    answer = attacked.all.post(
        "/v1/predict", content=smear(), headers={"Content-Type": "image/png"}
    )
    assert answer.status_code == 200 and answer.json()["images"][0]["class"]
    assert attacked.client.get("/readyz").status_code == 200


def _check_pages(app: Running, cases: list[str]) -> None:
    """What was typed is shown as it was typed."""
    label = app.all.post("/v1/cases", json={"label": SCRIPT})
    cases = [label.json()["id"], *cases]
    shown = 0
    for path in ("/cases", *(f"/cases/{case}{more}" for case in cases for more in ("", "/report"))):
        got = app.all.get(path, headers={"Accept": "text/html"})
        assert got.status_code == 200, path
        assert SCRIPT not in got.text and "5332114" not in got.text, path
        shown += got.text.count(escape(SCRIPT))
    assert shown
