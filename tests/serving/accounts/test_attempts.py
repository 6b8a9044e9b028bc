"""Guessing passwords is limited, and does not keep others from work."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bcd.serving.accounts.attempts import Attempts
from bcd.serving.accounts.passwords import Passwords
from bcd.serving.errors import BusyError
from tests.serving.accounts.making import BROWSER, PASSWORD, SITE, World, world

WARD, ELSEWHERE, FAR = "192.0.2.7", "198.51.100.7", "203.0.113.7"


@pytest.fixture
def limited(tmp_path: Path) -> World:
    """Two failures per minute and name, twenty per minute and address."""
    made = world(tmp_path, "limits.logins_per_minute=2")
    for name in ("Tess", "Ada"):
        made.accounts.users.add("", name, PASSWORD, ["submit", "admin"])
    return made


def status(made: World, name: str, password: str, peer: str) -> int:
    """Of the answer to a login."""
    form = {"name": name, "password": password}
    answer = made.browser(peer).post("/login", data=form)
    assert ("retry-after" in answer.headers) == (answer.status_code == 429)
    return answer.status_code


def test_passwords_cannot_be_guessed_quickly(limited: World) -> None:
    assert status(limited, "tess", "wrong", WARD) == 401
    assert status(limited, "TESS", "wrong", FAR) == 401
    for peer in (WARD, FAR, ELSEWHERE):
        assert status(limited, "Tess", PASSWORD, peer) == 429
    assert status(limited, "Ada", PASSWORD, ELSEWHERE) == 303
    names = [f"name{i}" for i in range(19)]  # of the 20 of an address, one is used up above
    assert {status(limited, name, "wrong", WARD) for name in names} == {401}
    assert status(limited, "Ada", PASSWORD, WARD) == 429
    six = ["2001:db8::1", "2001:db8::2"]
    assert {status(limited, f"six{i}", "wrong", six[i % 2]) for i in range(20)} == {401}
    assert status(limited, "Ada", PASSWORD, "2001:db8::3") == 429
    assert status(limited, "Ada", PASSWORD, "2001:db8:0:1::1") == 303


def test_who_has_logged_in_at_an_address_is_not_locked_out_there(limited: World) -> None:
    assert [status(limited, "Tess", PASSWORD, WARD) for _ in range(4)] == [303] * 4
    names = [f"name{i}" for i in range(20)]
    assert {status(limited, name, "wrong", WARD) for name in names} == {401}
    assert [status(limited, "tess", "wrong", FAR) for _ in range(3)] == [401, 401, 429]
    assert status(limited, "Ada", PASSWORD, WARD) == 429
    assert status(limited, "Tess", PASSWORD, WARD) == 303
    # Who shares the address has no more guesses than anybody else.
    assert [status(limited, "tess", "wrong", WARD) for _ in range(3)] == [401, 401, 429]
    assert status(limited, "Tess", PASSWORD, WARD) == 429


def test_guesses_at_the_same_time_are_counted_too() -> None:
    attempts = Attempts(3)

    def guess(_: int) -> bool:
        try:
            attempts.begin("tess", WARD)
        except BusyError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(guess, range(40))) == 3


def test_a_flood_of_logins_keeps_nobody_else_waiting(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More logins than the server has threads, while hashes do not end."""
    accounts, go = served.accounts, threading.Event()
    hasher, places = accounts._passwords._hasher, 8
    monkeypatch.setattr(accounts, "_passwords", Passwords(hasher, places=places))
    monkeypatch.setattr(accounts, "_attempts", Attempts(10))
    accounts._attempts.succeeded("tess", WARD)
    token = accounts.tokens.add("Ada", "tess", ["submit"], 1)
    check = accounts._passwords.check

    def endless(password: str, hashed: str | None) -> bool:
        assert go.wait(30)
        return check(password, hashed)

    monkeypatch.setattr(accounts._passwords, "check", endless)

    def client(peer: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(served.app, client=(peer, 50000))
        return httpx.AsyncClient(transport=transport, base_url=SITE, headers=BROWSER)

    async def flood() -> tuple[Counter[int], list[int]]:
        async with client(FAR) as stranger, client(WARD) as ward:
            forms = [{"name": "tess" if i % 2 else f"x{i}", "password": "x"} for i in range(60)]
            posts = [asyncio.ensure_future(stranger.post("/login", data=form)) for form in forms]
            while sum(post.done() for post in posts) < len(posts) - places:
                await asyncio.sleep(0.01)
            right = {"name": "Tess", "password": PASSWORD}
            login = asyncio.ensure_future(ward.post("/login", data=right))
            headers = {"authorization": f"Bearer {token}"}
            other = await ward.get("/v1/probe/submit", headers=headers)
            waiting = sum(not post.done() for post in posts)
            go.set()
            answers = [post.status_code for post in await asyncio.gather(*posts)]
            found = [other.status_code, waiting, (await login).status_code]
            return Counter(answers), found

    answers, found = asyncio.run(asyncio.wait_for(flood(), 60))
    assert answers == {429: 60 - places, 401: places}
    assert found == [200, places, 303]
    accounts._attempts.begin("tess", ELSEWHERE)  # what was not checked is not counted as failed
