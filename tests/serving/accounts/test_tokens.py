"""Tokens: what they may, and when they end."""

from __future__ import annotations

import pytest

from bcd.serving.accounts.tokens import MAX_DAYS
from bcd.serving.errors import NotFoundError, UnprocessableError
from bcd.serving.records.verify import verify
from tests.serving.accounts.making import OTHER, PASSWORD, World, session_of


def status(served: World, token: str, role: str = "submit") -> int:
    return served.program(token).get(f"/v1/probe/{role}").status_code


def test_a_reset_of_the_password_ends_tokens_but_a_change_of_ones_own_does_not(
    served: World,
) -> None:
    accounts = served.accounts
    accounts.users.add("Ada", "Kim", PASSWORD, ["submit"])
    kept = accounts.tokens.add("Ada", "tess", ["submit"], 1)
    token = accounts.tokens.add("Ada", "kim", ["submit"], 1)
    accounts.users.set_password("Kim", "kim", OTHER, keep=session_of(accounts, "kim"))
    assert accounts.tokens.user(token) is not None
    accounts.users.set_password("Ada", "kim", PASSWORD)
    assert accounts.tokens.user(token) is None and accounts.tokens.user(kept) is not None
    assert verify(str(served.engine.url)).problems == ()


def test_a_token_has_the_roles_that_it_and_its_user_have(served: World) -> None:
    token = served.accounts.tokens.add("Ada", "TESS", ["submit", "admin"], 1)
    answer = served.program(token).post("/v1/probe/submit")  # without CSRF token and origin
    assert answer.json() == {"name": "Tess", "roles": ["submit"], "how": "token"}
    assert status(served, token, "admin") == 403  # Tess is no admin
    assert status(served, token, "review") == 403  # Tess is, the token is not
    served.accounts.users.set_roles("Ada", "tess", ["review"])
    assert status(served, token) == 403
    served.accounts.users.set_roles("Ada", "tess", ["submit", "review"])
    assert status(served, token) == 200


def test_a_token_ends_with_its_time(served: World) -> None:
    token = served.accounts.tokens.add("Ada", "tess", ["submit"], 2)
    served.clock.seconds += 2 * 86400 - 1
    assert status(served, token) == 200
    served.clock.seconds += 1
    assert status(served, token) == 401


def test_a_revoked_token_and_a_disabled_users_token_end_at_once(served: World) -> None:
    accounts = served.accounts
    accounts.users.add("Ada", "Dan", PASSWORD, ["submit"])
    first, second = (accounts.tokens.add("Ada", "dan", ["submit"], 9) for _ in range(2))
    client = served.logged_in("dan")
    number = next(token.id for token in accounts.tokens.all() if token.user == "Dan")
    accounts.tokens.revoke("Ada", number)
    assert sorted(status(served, token) for token in (first, second)) == [200, 401]
    assert ("Ada", "token revoked", {"name": "Dan", "token": number}) in served.events()
    accounts.users.set_disabled("Ada", "dan", True)
    assert {status(served, token) for token in (first, second)} == {401}
    assert client.get("/probe/submit").status_code == 303
    accounts.users.set_disabled("Ada", "dan", False)
    assert {status(served, token) for token in (first, second)} == {401}
    served.logged_in("dan")


def test_the_day_of_the_last_use_is_noted(served: World) -> None:
    token = served.accounts.tokens.add("Ada", "tess", ["submit"], 9)
    assert [t.used for t in served.accounts.tokens.all() if t.user == "Tess"][-1] is None
    status(served, token)
    used = [t.used for t in served.accounts.tokens.all() if t.user == "Tess"]
    served.clock.seconds += 86400
    status(served, token)
    later = [t.used for t in served.accounts.tokens.all() if t.user == "Tess"]
    assert used[-1] is not None and later[-1] is not None and used[-1] < later[-1]


def test_a_token_counts_in_the_bearer_header_only(served: World) -> None:
    token = served.accounts.tokens.add("Ada", "tess", ["submit"], 9)
    program = served.program("no token")
    tries = [
        program.get("/v1/probe/submit", params={"token": token, "access_token": token}),
        program.get("/v1/probe/submit", headers={"authorization": f"Basic {token}"}),
        program.get("/v1/probe/submit", headers={"authorization": token}),
        program.get("/v1/probe/submit", headers={"authorization": f"Bearer {token}x"}),
        program.get("/v1/probe/submit", headers={"authorization": "Bearer bcd_"}),
        program.get("/v1/probe/submit", headers=[(b"authorization", b"Bearer bcd_\xe4")]),
        program.get("/v1/probe/submit", headers={"cookie": f"bcd={token}"}),
    ]
    assert {answer.status_code for answer in tries} == {401}
    twice = [("authorization", f"Bearer {token}"), ("authorization", "Bearer bcd_x")]
    served_twice = served.browser()
    assert served_twice.get("/v1/probe/submit", headers=twice).status_code == 401


def test_a_wrong_token_is_not_helped_by_a_cookie(served: World) -> None:
    client = served.logged_in("tess")
    client.headers["authorization"] = "Bearer bcd_wrong"
    assert client.get("/v1/probe/submit").status_code == 401
    del client.headers["authorization"]
    assert client.get("/v1/probe/submit").status_code == 200


def test_impossible_tokens_are_not_made(served: World) -> None:
    add = served.accounts.tokens.add
    for days in (0, -1, MAX_DAYS + 1, float("nan"), float("inf")):
        with pytest.raises(UnprocessableError):
            add("Ada", "tess", ["submit"], days)
    for roles in ([], ["root"], ["submit", ""]):
        with pytest.raises(UnprocessableError):
            add("Ada", "tess", roles, 1)
    with pytest.raises(NotFoundError):
        add("Ada", "nobody", ["submit"], 1)
