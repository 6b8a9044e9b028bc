"""Users that a reverse proxy logs in."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bcd.errors import ConfigError
from tests.serving.accounts.making import PASSWORD, World, csrf_of, session_of, world
from tests.serving.making import serve_config

PROXY, STRANGER = "192.0.2.1", "198.51.100.1"
HEADERS = ("proxy.user_header=X-User", f"proxy.trusted=[{PROXY},10.1.0.0/16]", "host=0.0.0.0")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Roles are recorded here."""
    made = world(tmp_path_factory.mktemp("proxy"), *HEADERS)
    made.accounts.users.add("", "Ada", PASSWORD, ["admin", "submit"])
    made.accounts.users.add("", "Gone", PASSWORD, ["submit"])
    made.accounts.users.set_disabled("", "Gone", True)
    return made


@pytest.fixture(scope="module")
def by_header(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Roles are in a header too."""
    made = world(tmp_path_factory.mktemp("roles"), *HEADERS, "proxy.roles_header=X-Roles")
    made.accounts.users.add("", "Ada", PASSWORD, ["admin", "submit"])
    return made


def asked(client: TestClient, path: str = "/v1/probe/submit") -> object:
    answer = client.get(path)
    return answer.json() if answer.status_code == 200 else answer.status_code


def test_a_trusted_proxy_names_the_user(recorded: World) -> None:
    ada = {"name": "Ada", "roles": ["admin", "submit"], "how": "proxy"}
    for peer in (PROXY, "10.1.2.3", f"::ffff:{PROXY}"):
        assert asked(recorded.browser(peer, **{"X-User": "ADA"})) == ada
    assert asked(recorded.browser(PROXY, **{"X-User": "nobody"})) == 403  # without a role
    assert asked(recorded.browser(PROXY, **{"X-User": "gone"})) == 401
    for name in (b"", b"a b", b"ada,eve", "ä".encode(), b"../x"):
        headers = [(b"X-User", name)]
        assert recorded.browser(PROXY).get("/v1/probe/submit", headers=headers).status_code == 401


def test_a_proxy_names_one_site_or_all(tmp_path: Path) -> None:
    made = world(
        tmp_path, *HEADERS, "proxy.site_header=X-Site", "site=main", "+sites.east.threshold=0.3"
    )
    made.accounts.users.add("", "Ada", PASSWORD, ["admin", "submit"], site="main")
    for given, site in (("east", "east"), ("*", ""), ("main", "main")):
        browser = made.browser(PROXY, **{"X-User": "ada", "X-Site": given})
        page = browser.get("/account")
        assert page.status_code == 200 and (f"your site: {site}" in page.text) == bool(site)
    for headers in ({}, {"X-Site": ""}, {"X-Site": "north"}, {"X-Site": "east, main"}):
        assert asked(made.browser(PROXY, **{"X-User": "ada", **headers})) == 401


def test_without_the_header_a_request_is_nobodys(recorded: World) -> None:
    assert asked(recorded.browser(PROXY)) == 401
    client = recorded.browser(PROXY)
    client.cookies.set("__Host-bcd", session_of(recorded.accounts, "ada"))
    client.cookies.set("bcd", session_of(recorded.accounts, "ada"))
    assert asked(client) == 401  # there are no sessions here
    twice = [("X-User", "eve"), ("X-User", "ada")]
    assert client.get("/v1/probe/submit", headers=twice).status_code == 401


def test_the_header_of_a_stranger_is_ignored(recorded: World) -> None:
    for headers in (
        {}, {"X-Forwarded-For": PROXY}, {"X-Forwarded-For": f"{PROXY}, {PROXY}"},
        {"X-Real-IP": PROXY}, {"Forwarded": f"for={PROXY}"},
    ):  # fmt: skip
        assert asked(recorded.browser(STRANGER, **{"X-User": "ada"} | headers)) == 401


def test_the_proxys_client_does_not_have_to_be_trusted(recorded: World) -> None:
    forwarded = {"X-User": "ada", "X-Forwarded-For": STRANGER}
    assert recorded.browser(PROXY, **forwarded).get("/v1/probe/submit").status_code == 200


def test_roles_may_come_from_the_proxy(by_header: World) -> None:
    def roles(name: str, *given: str) -> object:
        headers = [("X-User", name), *(("X-Roles", value) for value in given)]
        answer = by_header.browser(PROXY).get("/v1/probe/review", headers=headers)
        return answer.json()["roles"] if answer.status_code == 200 else answer.status_code

    assert roles("new", "submit, review,other") == ["review", "submit"]
    assert roles("ada", "review") == ["review"]  # not those that are recorded
    assert roles("ada") == 403
    assert roles("ada", "submit", "review") == 403
    assert roles("ada", "REVIEW") == 403


def test_nobody_logs_in_here(recorded: World) -> None:
    form = recorded.browser(PROXY, accept="text/html").get("/login")
    assert form.status_code == 200 and 'type="password"' not in form.text
    answer = recorded.browser(PROXY).post("/login", data={"name": "ada", "password": PASSWORD})
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert recorded.accounts.setup_path() == ""


def test_a_forged_request_is_refused(recorded: World) -> None:
    client = recorded.browser(PROXY, **{"X-User": "ada"})
    token = csrf_of(client)
    other = csrf_of(recorded.browser(PROXY, **{"X-User": "nobody"}))
    assert client.post("/probe/submit", data={"csrf": token}).status_code == 200
    assert client.post("/probe/submit", data={"csrf": other}).status_code == 403
    assert client.post("/probe/submit").status_code == 403
    cross = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert client.post("/probe/submit", data={"csrf": token}, headers=cross).status_code == 403


def test_admins_of_a_proxys_users_set_no_passwords(recorded: World) -> None:
    client = recorded.browser(PROXY, **{"X-User": "ada"})
    form = {"csrf": csrf_of(client), "name": "Uma", "roles": ["review"]}
    assert client.post("/users", data=form).status_code == 303
    for path in ("/users", "/users/uma"):
        assert 'type="password"' not in client.get(path).text
    uma = {"name": "Uma", "roles": ["review"], "how": "proxy"}
    assert asked(recorded.browser(PROXY, **{"X-User": "uma"}), "/v1/probe/review") == uma
    for password in ("", "!", PASSWORD):
        assert recorded.accounts.log_in("uma", password, "") is None


def test_a_token_works_beside_the_proxy(recorded: World) -> None:
    token = recorded.accounts.tokens.add("", "ada", ["submit"], 1)
    assert recorded.program(token, STRANGER).get("/v1/probe/submit").status_code == 200
    of_proxy = {"X-User": "ada", "authorization": "Bearer eyJ.a.b"}  # its own, of OIDC
    assert recorded.browser(PROXY, **of_proxy).get("/v1/probe/submit").status_code == 200


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("proxy.user_header=X-User",), "proxy.user_header: nobody is believed"),
        (("proxy.roles_header=X-Roles",), "proxy.roles_header: needs proxy.user_header"),
        (("proxy.trusted=[proxy]",), "proxy.trusted=proxy: must be an address"),
        (("session.hours=0",), "session.hours=0.0: must be between 0.01 and 8760"),
        (
            ("limits.logins_per_minute=0",),
            "limits.logins_per_minute=0: must be between 1 and 1000000",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(
    overrides: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        serve_config(tmp_path, *overrides)
    assert str(error.value).startswith(why)
