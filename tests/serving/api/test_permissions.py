"""Every route of the app, and who may use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from bcd.serving.accounts.user import ROLES
from tests.serving.making import IDENTITY, smear
from tests.serving.running import ALL, BASE, NOBODY, PASSWORD, Running

OPEN = frozenset({*ROLES, NOBODY})
ANY = frozenset(ROLES)
SUBMIT, REVIEW, SIGN, ADMIN = (frozenset({role}) for role in ROLES)
NONE: frozenset[str] = frozenset()  # the set-up link is valid only until there is an admin

CASE = "/cases/{case_id}"
IMAGE = CASE + "/images/{image_id}"
USER = "/users/{name}"

# One row for each route; a new route needs one.
TABLE = {
    "GET /v1/openapi.json": OPEN,
    "POST /v1/predict": SUBMIT,
    "POST /v1/explain": SUBMIT,
    "GET /v1/model": ANY,
    "GET /v1/cases": ANY,
    "POST /v1/cases": SUBMIT,
    f"GET /v1{CASE}": ANY,
    f"POST /v1{CASE}/images": SUBMIT,
    f"GET /v1{CASE}/uploads/{{upload}}": ANY,
    f"POST /v1{IMAGE}/review": REVIEW,
    f"POST /v1{CASE}/sign": SIGN,
    f"POST /v1{CASE}/erase": ADMIN,
    f"GET /v1{CASE}/report": ANY,
    f"GET /v1{CASE}/report.dcm": ANY,
    f"GET /v1{IMAGE}/heatmap.dcm": ANY,
    f"GET /v1{IMAGE}/capture.dcm": ANY,
    f"GET /v1{IMAGE}/image.dcm": ANY,
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": OPEN,
    "GET /login": OPEN,
    "POST /login": OPEN,
    "POST /logout": ANY,
    "GET /setup": NONE,
    "POST /setup": NONE,
    "GET /account": ANY,
    "POST /account": NONE,  # passwords are changed in a session, and these are tokens
    "GET /users": ADMIN,
    "POST /users": ADMIN,
    f"GET {USER}": ADMIN,
    f"POST {USER}/roles": ADMIN,
    f"POST {USER}/site": ADMIN,
    f"POST {USER}/password": ADMIN,
    f"POST {USER}/disable": ADMIN,
    f"POST {USER}/enable": ADMIN,
    f"POST {USER}/tokens": ADMIN,
    f"POST {USER}/tokens/{{number}}/revoke": ADMIN,
    "GET /": OPEN,  # leads to /cases
    "GET /cases": ANY,
    "POST /cases": SUBMIT,
    f"GET {CASE}": ANY,
    f"POST {CASE}/images": SUBMIT,
    f"POST {CASE}/sign": SIGN,
    f"POST {CASE}/erase": ADMIN,
    f"GET {CASE}/images": ANY,  # these addresses of forms lead to their pages
    f"GET {CASE}/sign": ANY,
    f"GET {CASE}/erase": ANY,
    f"GET {IMAGE}/review": ANY,
    f"GET {IMAGE}": ANY,
    f"POST {IMAGE}/review": REVIEW,
    f"GET {IMAGE}/thumbnail.png": ANY,
    f"GET {IMAGE}/image.png": ANY,
    f"GET {IMAGE}/cells.png": ANY,
    f"GET {IMAGE}/evidence.png": ANY,
    f"GET {CASE}/report": ANY,
    f"GET {CASE}/report.csv": ANY,
    f"GET {CASE}/report.pdf": ANY,
    "GET /dashboard": REVIEW | SIGN | ADMIN,
}

# What the routes that take JSON or fields expect; there is no such case, image or user.
BODIES = {
    "/v1/cases": {"label": "a"},
    f"/v1{IMAGE}/review": {"finding": IDENTITY.classes[0]},
    f"/v1{CASE}/sign": {"version": 1},
    f"/v1{CASE}/erase": {"reason": "a"},
}
FIELDS = {
    "csrf": "", "label": "a", "finding": IDENTITY.classes[0], "remark": "a", "version": "1",
    "password": "a", "reason": "a", "name": "ghost", "token": "a", "roles": "submit", "days": "1",
    "again": "a", "old": "a", "new": "a", "next": "/",
}  # fmt: skip
LOGIN = {"name": ALL, "password": PASSWORD}
VALUES = {"case_id": "0" * 16, "image_id": "0" * 16, "name": "ghost", "number": "0", "upload": "0"}


def _routes(routes: Iterable[Any]) -> Iterator[str]:
    """Method and path of every route, those of included routers too."""
    for route in routes:
        contexts = getattr(route, "effective_route_contexts", None)  # FastAPI includes lazily
        for one in contexts() if contexts else [route]:
            for method in (getattr(one, "methods", None) or set()) - {"HEAD"}:
                yield f"{method} {one.path}"


def test_every_route_has_a_row(served: Running) -> None:
    assert sorted(_routes(served.app.routes)) == sorted(TABLE)


@pytest.mark.parametrize("row", TABLE)
def test_a_route_lets_in_exactly_who_may(served: Running, row: str) -> None:
    method, _, path = row.partition(" ")
    allowed = {name for name in OPEN if _lets_in(served, method, path, name)}
    assert allowed == TABLE[row]


def _lets_in(served: Running, method: str, path: str, name: str) -> bool:
    options: dict[str, Any] = {}
    if path in BODIES:
        options["json"] = BODIES[path]
    elif path.endswith(("/predict", "/explain", "/images")):
        options = {"content": smear(), "headers": {"Content-Type": "image/png"}}
    elif method == "POST":
        options["data"] = FIELDS | (LOGIN if path == "/login" else {})
    headers = {"Origin": BASE, **options.pop("headers", {})}
    target = path.format(**VALUES)
    got = served.users[name].request(method, target, headers=headers, **options)
    assert got.status_code < 500, got.text
    page = served.users[name].request(
        method, target, headers=headers | {"Accept": "text/html"}, **options
    )
    to_login = page.headers.get("location", "").startswith("/login?")
    denied = got.status_code in (401, 403)
    if not path.startswith("/v1"):
        assert denied == (to_login or page.status_code == 403)
    return not denied


def test_a_role_taken_away_counts_at_once(served: Running) -> None:
    accounts = served.services.accounts
    accounts.users.add("", "leaver", "a long enough phrase", ["review"])
    token = accounts.tokens.add("", "leaver", ["review"], 1)
    headers = {"Authorization": f"Bearer {token}"}
    assert served.client.get("/v1/cases", headers=headers).status_code == 200
    accounts.users.set_disabled("", "leaver", True)
    assert served.client.get("/v1/cases", headers=headers).status_code == 401
