"""Argon2 with cheap parameters, and one app for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bcd.serving.accounts.store import Accounts
from tests.serving.accounts.making import CHEAP, PASSWORD, World, world


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accounts, "hasher", CHEAP)
        yield


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> World:
    """An app with an admin, Ada, and a technologist, Tess."""
    made = world(tmp_path_factory.mktemp("accounts"), "limits.logins_per_minute=1000")
    made.accounts.users.add("", "Ada", PASSWORD, ["admin", "submit"])
    made.accounts.users.add("Ada", "Tess", PASSWORD, ["submit", "review"])
    return made
