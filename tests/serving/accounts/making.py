"""An app with accounts of its own, people with roles, and browsers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from argon2 import PasswordHasher
from fastapi import Depends, FastAPI
from sqlalchemy import Engine, select
from starlette.testclient import TestClient

from bcd.serving.accounts.access import User, require
from bcd.serving.accounts.store import Accounts
from bcd.serving.app import create_app
from bcd.serving.records.database import database_url
from bcd.serving.records.tables import RECORDS
from bcd.serving.records.upgrade import prepare
from bcd.serving.services import Services
from tests.serving.making import serve_config

SITE = "http://127.0.0.1:8000"
PASSWORD = "four drawn white cells"
OTHER = "five drawn white cells"
CHEAP = PasswordHasher(1, 8, 1)
BROWSER = {"accept": "text/html", "origin": SITE, "sec-fetch-site": "same-origin"}


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class World:
    """A server's app with its accounts, and what they have recorded."""

    app: FastAPI
    accounts: Accounts
    clock: Clock
    engine: Engine

    def events(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What has been recorded: by whom, kind and details."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(RECORDS).order_by(RECORDS.c.number)).mappings().all()
        return [(row["user_name"], row["kind"], json.loads(row["payload"])) for row in rows]

    def browser(self, peer: str = "127.0.0.1", **headers: str) -> TestClient:
        """A browser that nobody has logged in with."""
        return TestClient(
            self.app, SITE, headers=BROWSER | headers, client=(peer, 50000), follow_redirects=False
        )

    def logged_in(self, name: str, password: str = PASSWORD) -> TestClient:
        """A browser in which a user has logged in by the form."""
        client = self.browser()
        answer = client.post("/login", data={"name": name, "password": password})
        assert answer.status_code == 303, answer.text
        return client

    def program(self, token: str, peer: str = "127.0.0.1") -> TestClient:
        """A program that sends a token."""
        headers = {"authorization": f"Bearer {token}"}
        return TestClient(self.app, SITE, headers=headers, client=(peer, 50000))


def world(folder: Path, *overrides: str) -> World:
    """An app whose only routes are those of accounts, and some that need roles."""
    clock = Clock()
    cfg = serve_config(folder, "limits.requests_per_minute=100000", *overrides)
    engine = prepare(database_url(None, str(folder)))
    accounts = Accounts(engine, cfg, clock)
    services = Services(cfg, cast(Any, SimpleNamespace()), cast(Any, SimpleNamespace()), accounts)
    app = create_app(services)
    _add_routes(app)
    return World(app, accounts, clock, engine)


def _add_routes(app: FastAPI) -> None:
    for path in ("/probe", "/v1/probe"):
        for role in ("submit", "review", "admin"):

            @app.api_route(f"{path}/{role}", methods=["GET", "POST"])
            def probe(user: User = Depends(require(role))) -> dict[str, Any]:  # noqa: B008
                return {"name": user.name, "roles": sorted(user.roles), "how": user.how}


def csrf_of(client: TestClient, path: str = "/account") -> str:
    """The CSRF token in a page."""
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def session_of(accounts: Accounts, name: str) -> str:
    """The cookie of a new session."""
    row = accounts.users.row(name.lower())
    assert row is not None
    return accounts.sessions.begin(name, row["password"])


def alert(text: str) -> str:
    """What a page announces as an error."""
    found = re.search(r'role="alert">([^<]*)<', text)
    return "" if found is None else found[1]
