"""Which passwords are accepted, and how they are kept."""

from __future__ import annotations

import threading
import time

import pytest
from argon2 import PasswordHasher

from bcd.serving.accounts.passwords import (
    MAX_BYTES,
    MIN_CHARACTERS,
    NO_PASSWORD,
    STRONG,
    Passwords,
    check_policy,
)
from bcd.serving.accounts.user import User, key_of
from bcd.serving.errors import ConflictError, UnprocessableError
from tests.serving.accounts.making import CHEAP, OTHER, PASSWORD, World


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("a1b2c3d4e5f", "at least"),
        ("x" * 4 + "ÄÖü€" * MAX_BYTES, "at most"),
        ("Ada.Lovelace", "name"),
        ("ADA.LOVELACE", "name"),
        ("Ada.Lovelace1815!", "name"),
        ("Password1234", "common"),
        ("passwordpassword", "common"),
        ("qwertyqwerty123", "common"),
        ("aaaaaaaaaaaaaaaa", "common"),
        ("123412341234", "common"),
        ("\N{FULLWIDTH LATIN SMALL LETTER P}assword1234", "common"),
        ("valid but lone \ud800", "valid text"),
    ],
)
def test_passwords_that_are_easily_guessed_are_refused(password: str, why: str) -> None:
    with pytest.raises(UnprocessableError, match=why):
        check_policy(password, "Ada.Lovelace")


@pytest.mark.parametrize(
    "password", [PASSWORD, "a1b2c3d4e5f6", "passwords are words", "\u00e4\u00f6\u00fc" * 4 + "xy"]
)
def test_other_passwords_are_accepted(password: str) -> None:
    check_policy(password, "Ada.Lovelace")
    assert len(password) >= MIN_CHARACTERS


def test_a_password_is_the_same_however_it_was_composed() -> None:
    made = Passwords(CHEAP)
    hashed = made.hash("f\u00fcnf wei\u00dfe Zellen")
    assert made.check("fu\u0308nf wei\u00dfe Zellen", hashed)
    assert not made.check("funf wei\u00dfe Zellen", hashed)


def test_a_damaged_hash_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda: PASSWORD)  # whose hash stands for no user's
    made = Passwords(CHEAP)
    assert not made.check(PASSWORD, None)
    for damaged in ("", NO_PASSWORD, PASSWORD, made.hash(PASSWORD)[:-20]):
        assert not made.check(PASSWORD, damaged)
        assert not made.check("", damaged)


def test_hashes_are_those_of_rfc_9106() -> None:
    assert (STRONG.type.name, STRONG.memory_cost, STRONG.time_cost) == ("ID", 64 * 1024, 3)


def test_a_login_renews_a_hash_with_old_parameters(served: World) -> None:
    served.accounts.users.add("Ada", "Old", PASSWORD, ["submit"])
    before = served.accounts.users.row("old")
    stronger = PasswordHasher(2, 8, 1)
    passwords = served.accounts._passwords
    passwords._hasher, usual = stronger, passwords._hasher
    try:
        assert served.accounts.log_in("old", OTHER, "") is None
        assert served.accounts.users.row("old") == before
        assert served.accounts.log_in("old", PASSWORD, "") is not None
        after = served.accounts.users.row("old")
    finally:
        passwords._hasher = usual
    assert before is not None and after is not None
    assert ",t=1," in before["password"] and ",t=2," in after["password"]
    assert served.accounts.log_in("old", PASSWORD, "") is not None


def test_few_passwords_are_hashed_at_once() -> None:
    running, most = [0], [0]

    class Slow:
        def hash(self, _: str) -> str:
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.01)
            running[0] -= 1
            return ""

    made = Passwords(Slow(), at_once=2)  # type: ignore[arg-type]
    threads = [threading.Thread(target=made.hash, args=(PASSWORD,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 2


def test_names_differ_by_more_than_case(served: World) -> None:
    with pytest.raises(ConflictError):
        served.accounts.users.add("Ada", "TESS", PASSWORD, ["submit"])
    found = served.accounts.users.find("tEsS")
    assert found is not None and found.name == "Tess"
    assert served.accounts.users.find("'; DROP TABLE users; --") is None


@pytest.mark.parametrize("name", ["", "a b", "ä", "a" * 65, "<b>", "a\n", ".", "..", "-a", "a/b"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UnprocessableError):
        key_of(name)


def test_admin_implies_no_other_role() -> None:
    user = User("ada", frozenset({"admin"}), "token")
    assert user.may("admin") and user.may("sign", "admin")
    assert not user.may("submit", "review", "sign") and not user.may()
