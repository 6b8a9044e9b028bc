"""The app in this process, with the stub model, records in a folder, and a user of each role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from fastapi import FastAPI
from starlette.testclient import TestClient

from bcd.config.sites import read_sites
from bcd.serving.accounts.store import Accounts
from bcd.serving.accounts.user import ROLES
from bcd.serving.app import create_app
from bcd.serving.engine.queue import Engine
from bcd.serving.engine.sites import read_ways
from bcd.serving.intake.start import Intake, open_intake
from bcd.serving.records.database import database_url
from bcd.serving.records.store import open_records
from bcd.serving.services import Services
from tests.serving.making import IDENTITY, StubModel, serve_config

BASE = "http://127.0.0.1"
PASSWORD = "a drawn smear is no patient"
ALL = "all"  # name of the user with every role
NOBODY = "nobody"  # sends no token


class As:
    """Sends requests as one user, by a token.

    Args:
        client: Of the app.
        token: Of the user; empty for nobody.
    """

    def __init__(self, client: TestClient, token: str) -> None:
        self._client = client
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Sends a request; no redirect is followed."""
        self._client.cookies.clear()  # of whoever logged in
        headers = {**self.headers, **options.pop("headers", {})}
        return self._client.request(
            method, path, headers=headers, follow_redirects=False, **options
        )

    def get(self, path: str, **options: Any) -> Any:
        """Sends a GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Any:
        """Sends a POST."""
        return self.request("POST", path, **options)


@dataclass(frozen=True)
class Running:
    """A running app.

    Attributes:
        app: In this process.
        services: Of the app.
        client: Without a user.
        users: By role, and `ALL` and `NOBODY`.
        folder: Of the records.
        intake: Takes the images of scanners.
    """

    app: FastAPI
    services: Services
    client: TestClient
    users: dict[str, As]
    folder: Path
    intake: Intake

    @property
    def all(self) -> As:
        """The user with every role."""
        return self.users[ALL]


@contextmanager
def running(folder: Path, *overrides: str, model: Any = None) -> Iterator[Running]:
    """Runs the app until the context ends.

    Args:
        folder: Of the records.
        overrides: Of the configuration.
        model: It answers; None for the stub.
    """
    cfg = serve_config(folder, *overrides)
    Accounts.hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    model = model or StubModel()
    engine = Engine(model, IDENTITY, cfg.limits, ways=read_ways(read_sites(cfg), model))
    with (
        open_intake(cfg) as intake,
        open_records(database_url(cfg.records, cfg.folder), cfg.images, cfg.site) as records,
    ):
        accounts = Accounts(records.engine, cfg)
        services = Services(cfg, engine, records, accounts)
        app = create_app(services, intake)
        with TestClient(app, BASE, raise_server_exceptions=False) as client:
            users = {NOBODY: As(client, "")}
            for name, roles in {**{role: (role,) for role in ROLES}, ALL: ROLES}.items():
                accounts.users.add("", name, PASSWORD, roles)
                users[name] = As(client, accounts.tokens.add("", name, roles, 1))
            yield Running(app, services, client, users, folder, intake)
