"""Sessions: cookies, time-outs, and what ends them."""

from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import select

from bcd.config.serve import ServeConfig
from bcd.serving.accounts.access import cookie_name, is_plain
from bcd.serving.accounts.tables import SESSIONS, TOKENS, USERS
from bcd.serving.errors import BusyError, ConflictError
from tests.serving.accounts.making import OTHER, PASSWORD, World, alert, csrf_of, session_of, world
from tests.serving.making import serve_config


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(served: World) -> None:
    answer = served.browser().post("/login", data={"name": "tess", "password": PASSWORD})
    value, *attributes = answer.headers["set-cookie"].split("; ")
    lasts = int(served.accounts.cfg.session.hours * 3600)
    assert {a.lower() for a in attributes} == {
        "httponly", "samesite=strict", "path=/", f"max-age={lasts}",
    }  # fmt: skip
    assert len(value.partition("=")[2]) >= 43


@pytest.mark.parametrize(
    ("overrides", "plain"),
    [
        ((), True),
        (("url=http://localhost:8000",), True),
        (("url=https://smears.example.org",), False),
        (("url=http://smears.example.org",), False),
        (("host=0.0.0.0", "proxy.trusted=[10.0.0.1]"), False),
        (("proxy.trusted=[127.0.0.1]",), False),
        (("tls.certificate=a", "tls.key=b"), False),
    ],
)
def test_only_plain_http_on_loopback_has_a_cookie_that_is_not_secure(
    overrides: tuple[str, ...], plain: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cfg: ServeConfig = serve_config(tmp_path_factory.getbasetemp(), *overrides)
    assert is_plain(cfg) is plain
    assert cookie_name(cfg).startswith("__Host-") is not plain


def test_an_encrypted_server_sets_a_secure_cookie(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = world(tmp_path_factory.mktemp("https"), "url=https://127.0.0.1")
    made.accounts.users.add("", "Ada", PASSWORD, ["admin"])
    client = made.browser(origin="https://127.0.0.1")
    answer = client.post("/login", data={"name": "ada", "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-bcd=") and "; Secure" in cookie and "omain" not in cookie
    client = made.browser(origin="http://127.0.0.1:8000")  # the Host header, but not `url`
    assert client.post("/login", data={"name": "ada", "password": PASSWORD}).status_code == 403


def test_neither_cookies_nor_tokens_nor_passwords_are_stored(served: World) -> None:
    cookie = session_of(served.accounts, "tess")
    token = served.accounts.tokens.add("Ada", "tess", ["submit"], 1)
    with served.engine.connect() as connection:
        tables = [SESSIONS, TOKENS, USERS]
        stored = repr([connection.execute(select(table)).all() for table in tables])
    events = repr(served.events())
    for secret in (cookie, token, token[4:], PASSWORD):
        assert secret not in stored and secret not in events
    assert "$argon2id$" in stored


def test_a_session_ends_after_its_hours_and_when_idle(served: World) -> None:
    cfg, clock = served.accounts.cfg.session, served.clock
    sessions = served.accounts.sessions
    idle, lasts = cfg.idle_minutes * 60, cfg.hours * 3600
    unused = session_of(served.accounts, "tess")
    clock.seconds += idle - 1
    assert sessions.user(unused) is not None  # which is a use
    clock.seconds += idle - 1
    assert sessions.user(unused) is not None
    clock.seconds += idle
    assert sessions.user(unused) is None
    used, begun = session_of(served.accounts, "tess"), clock.seconds
    while clock.seconds + idle / 2 < begun + lasts:
        clock.seconds += idle / 2
        assert sessions.user(used) is not None
    clock.seconds = begun + lasts - 1
    assert sessions.user(used) is not None
    clock.seconds += 1
    assert sessions.user(used) is None
    session_of(served.accounts, "tess")
    with served.engine.connect() as connection:
        oldest = min(connection.execute(select(SESSIONS.c.created)).scalars())
    assert oldest > clock.seconds - lasts  # ended ones are deleted


def test_logging_out_is_recorded_and_ends_one_session(served: World) -> None:
    first, second = served.logged_in("tess"), served.logged_in("tess")
    answer = first.post("/logout", data={"csrf": csrf_of(first)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert served.events()[-1] == ("Tess", "logout", {})
    assert first.get("/probe/submit").status_code == 303
    assert second.get("/probe/submit").status_code == 200


def test_another_password_ends_the_other_sessions(served: World) -> None:
    served.accounts.users.add("Ada", "Pat", PASSWORD, ["submit"])
    here, elsewhere = served.logged_in("pat"), served.logged_in("pat")
    form = {"csrf": csrf_of(here), "current": PASSWORD, "password": OTHER, "again": OTHER}
    for wrong, why in [
        ({"current": OTHER}, "The current password is wrong"),
        ({"again": PASSWORD}, "The two passwords differ"),
        ({"password": PASSWORD, "again": PASSWORD}, "The new password is the current one"),
        ({"password": "short", "again": "short"}, "A password has at least 12 characters"),
    ]:
        answer = here.post("/account", data=form | wrong)
        assert (answer.status_code, alert(answer.text)) == (422, why)
    assert elsewhere.get("/probe/submit").status_code == 200
    assert here.post("/account", data=form).status_code == 303
    assert here.get("/probe/submit").status_code == 200
    assert elsewhere.get("/probe/submit").status_code == 303
    again = served.browser().post("/login", data={"name": "pat", "password": PASSWORD})
    assert again.status_code == 401
    served.logged_in("pat", OTHER)
    (facts,) = [each for _, kind, each in served.events() if kind == "user password"]
    row = served.accounts.users.row("pat")
    assert row is not None and not row["must_change"]
    hashed = hashlib.sha256(row["password"].encode()).hexdigest()
    assert facts == {"name": "Pat", "password": hashed, "must_change": False}


@pytest.mark.parametrize("what", ["password", "disabled"])
def test_a_login_that_began_before_a_reset_begins_no_session(
    served: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    accounts, name = served.accounts, f"Raced-{what}"
    accounts.users.add("Ada", name, PASSWORD, ["submit"])
    check = accounts._passwords.check

    def slow(password: str, hashed: str | None) -> bool:
        right = check(password, hashed)
        if what == "password":
            accounts.users.set_password("Ada", name, OTHER)
        else:
            accounts.users.set_disabled("Ada", name, True)
        return right

    monkeypatch.setattr(accounts._passwords, "check", slow)
    client = served.browser()
    answer = client.post("/login", data={"name": name, "password": PASSWORD})
    assert (answer.status_code, dict(client.cookies)) == (401, {})
    assert served.events()[-1] == (name, "login failed", {})
    with served.engine.connect() as connection:
        keys = connection.execute(select(SESSIONS.c.user_key)).scalars().all()
    assert name.lower() not in keys


def test_a_change_of_password_that_began_before_a_reset_is_refused(served: World) -> None:
    users = served.accounts.users
    users.add("Ada", "Ron", PASSWORD, ["submit"])
    cookie = session_of(served.accounts, "ron")
    users.set_password("Ada", "ron", OTHER)
    with pytest.raises(ConflictError):
        users.set_password("Ron", "ron", "six drawn white cells", keep=cookie)
    assert served.accounts.log_in("ron", OTHER, "") is not None


def test_a_first_password_has_to_be_changed_before_anything_else(served: World) -> None:
    served.accounts.users.add("Ada", "New", PASSWORD, ["submit"], must_change=True)
    client = served.browser()
    answer = client.post("/login", data={"name": "new", "password": PASSWORD})
    assert answer.headers["location"] == "/account"
    assert client.get("/probe/submit").headers["location"] == "/account"
    assert client.get("/v1/probe/submit").status_code == 403
    form = {"csrf": csrf_of(client), "current": PASSWORD, "password": OTHER, "again": OTHER}
    assert client.post("/account", data=form).status_code == 303
    assert client.get("/probe/submit").status_code == 200
    assert client.get("/v1/probe/submit").status_code == 200


def test_a_role_taken_away_ends_the_session_and_is_gone(served: World) -> None:
    served.accounts.users.add("Ada", "Rob", PASSWORD, ["submit", "review"])
    client, token = (
        served.logged_in("rob"), served.accounts.tokens.add("Ada", "rob", ["review"], 1)
    )  # fmt: skip
    program = served.program(token)
    assert client.get("/probe/review").status_code == program.get("/v1/probe/review").status_code
    served.accounts.users.set_roles("Ada", "rob", ["submit"])
    assert client.get("/probe/review").status_code == 303
    assert served.logged_in("rob").get("/probe/review").status_code == 403
    assert program.get("/v1/probe/review").status_code == 403


def test_the_same_password_confirms_a_signature(served: World) -> None:
    user = served.accounts.sessions.user(session_of(served.accounts, "tess"))
    assert user is not None
    assert served.accounts.confirm(user, PASSWORD)
    assert not served.accounts.confirm(user, OTHER)
    assert served.events()[-1] == ("Tess", "confirmation failed", {})


def test_confirmations_are_limited_apart_from_logins(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = world(tmp_path_factory.mktemp("confirm"), "limits.logins_per_minute=2")
    made.accounts.users.add("", "Tess", PASSWORD, ["sign"])
    user = made.accounts.sessions.user(session_of(made.accounts, "tess"))
    assert user is not None
    for _ in range(2):
        assert made.accounts.log_in("tess", OTHER, "192.0.2.7") is None
    with pytest.raises(BusyError):
        made.accounts.log_in("tess", PASSWORD, "192.0.2.8")
    assert made.accounts.confirm(user, PASSWORD)
    assert [made.accounts.confirm(user, OTHER) for _ in range(2)] == [False, False]
    with pytest.raises(BusyError):
        made.accounts.confirm(user, PASSWORD)


def test_htmx_leaves_the_page_when_the_session_has_ended(served: World) -> None:
    here = "http://127.0.0.1:8000/cases/1?show=waiting"
    headers = {"hx-request": "true", "hx-current-url": here, "accept": "*/*"}
    answer = served.browser(**headers).get("/probe/submit")
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/login?next=%2Fcases%2F1%3Fshow%3Dwaiting"
    evil = served.browser(**headers | {"hx-current-url": "https://evil.example//x"})
    assert evil.get("/probe/submit").headers["hx-redirect"] == "/login?next=%2F"
