"""What an attacker would try on logins, sessions and forms."""

from __future__ import annotations

import pytest

from bcd.serving.accounts.access import local_path
from bcd.serving.accounts.store import Accounts
from tests.serving.accounts.making import (
    PASSWORD,
    SITE,
    World,
    alert,
    csrf_of,
    session_of,
)


def test_a_cookie_set_before_the_login_is_not_used_after_it(served: World) -> None:
    client = served.browser()
    for planted in ("planted", session_of(served.accounts, "tess")):
        client.cookies.set("bcd", planted, domain="127.0.0.1")
        answer = client.post("/login", data={"name": "Ada", "password": PASSWORD})
        given = answer.cookies["bcd"]
        assert given != planted
        assert served.accounts.sessions.user(planted) is None
        found = served.accounts.sessions.user(given)
        assert found is not None and found.name == "Ada"
        client.cookies.clear()


def test_a_logged_out_cookie_cannot_be_used_again(served: World) -> None:
    client = served.logged_in("tess")
    cookie = client.cookies["bcd"]
    client.post("/logout", data={"csrf": csrf_of(client)})
    assert "bcd" not in client.cookies
    client.cookies.set("bcd", cookie, domain="127.0.0.1")
    assert client.get("/probe/submit").status_code == 303


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, None),
        ({}, ""),
        ({}, "0" * 64),
        ({}, "of another session"),
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, "right"),
        ({"sec-fetch-site": "same-site"}, "right"),
        ({"sec-fetch-site": "none"}, "right"),
        ({"origin": "null", "sec-fetch-site": ""}, "right"),
        ({"origin": "http://127.0.0.1:9000"}, "right"),
        ({"origin": "https://127.0.0.1:8000"}, "right"),
        ({"origin": "http://127.0.0.1:port"}, "right"),
    ],
)
def test_a_forged_request_is_refused(
    served: World, headers: dict[str, str], token: str | None
) -> None:
    client = served.logged_in("tess")
    tokens = {"right": csrf_of(client), "of another session": csrf_of(served.logged_in("tess"))}
    for where in ("form", "header"):
        sent = {} if token is None else {"csrf": tokens.get(token, token)}
        more = {"x-csrf-token": sent["csrf"]} if where == "header" and sent else {}
        data = sent if where == "form" else {}
        answer = client.post("/probe/submit", data=data, headers=headers | more)
        assert answer.status_code == 403


def test_a_request_of_the_own_page_is_accepted(served: World) -> None:
    client = served.logged_in("tess")
    token = csrf_of(client)
    assert client.post("/probe/submit", data={"csrf": token}).status_code == 200
    upload = client.post("/probe/submit", data={"csrf": token}, files={"images": ("a.png", b"x")})
    assert upload.status_code == 200
    assert client.post("/probe/submit", headers={"x-csrf-token": token}).status_code == 200
    statuses = []
    for left in ({"origin": SITE}, {"sec-fetch-site": "same-origin"}, {}):
        for name in ("origin", "sec-fetch-site"):
            client.headers.pop(name, None)
        answer = client.post("/probe/submit", data={"csrf": token}, headers=left)
        statuses.append(answer.status_code)
    assert statuses == [200, 200, 403]


def test_another_site_cannot_log_somebody_in(served: World) -> None:
    form = {"name": "Tess", "password": PASSWORD}
    for headers in (
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "https://evil.example", "sec-fetch-site": ""},
        {"origin": "null", "sec-fetch-site": ""},
    ):
        client = served.browser(**headers)
        assert client.post("/login", data=form).status_code == 403
        assert not client.cookies
    silent = served.browser()
    del silent.headers["origin"], silent.headers["sec-fetch-site"]
    assert silent.post("/login", data=form).status_code == 403


def test_an_unknown_name_is_answered_like_a_wrong_password(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.accounts.users.add("Ada", "Gone", PASSWORD, ["submit"])
    served.accounts.users.set_disabled("Ada", "Gone", True)
    served.accounts.users.add("Ada", "Proxied", None, ["submit"])
    checked: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            checked.append(name)
            return getattr(Accounts.hasher, name)

    monkeypatch.setattr(served.accounts._passwords, "_hasher", Counting())
    seen = set()
    for name, password in [
        ("Tess", "wrong"), ("nobody", "wrong"), ("nobody", PASSWORD), ("Gone", PASSWORD),
        ("Gone", "wrong"), ("<b>", "wrong"), ("", ""), ("Proxied", "!"),
        ("Tess", "x" * 2000), ("x", "x" * 2000),
    ]:  # fmt: skip
        checked.clear()
        answer = served.browser().post("/login", data={"name": name, "password": password})
        text = answer.text.replace(f'value="{name}"', "").replace('value="&lt;b&gt;"', "")
        seen.add((answer.status_code, text, tuple(checked), "bcd" in answer.cookies))
    assert len(seen) == 1
    ((status, text, calls, cookie),) = seen
    assert (status, calls, cookie) == (401, ("verify",), False)
    assert alert(text) == "The name or the password is wrong"


def test_failures_are_recorded_with_names_of_users_only(served: World) -> None:
    before = len(served.events())
    for name in ("tess", "a password typed here"):
        served.browser().post("/login", data={"name": name, "password": "wrong"})
    assert served.events()[before:] == [("Tess", "login failed", {}), ("", "login failed", {})]


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/", "//evil.example", "/\\evil.example", "\\/evil.example", "evil",
        "javascript:alert(1)", "/a\nSet-Cookie: x=y", "/\t/evil.example", "", "/ä",
        "///evil.example", "/" + "a" * 3000, "http:/evil.example", "/%0d%0aX: y\r\n",
        "//[", "http://[", "//[::1", "http://[x]/",
    ],
)  # fmt: skip
def test_a_login_leads_to_this_server_only(served: World, target: str) -> None:
    form = {"name": "Tess", "password": PASSWORD, "next": target}
    answer = served.browser().post("/login", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    client = served.logged_in("Tess")
    answer = client.get("/login", params={"next": target[:1000]})
    assert answer.headers["location"] == local_path(target[:1000])
    assert len(target) > 1000 or answer.headers["location"] == "/"


@pytest.mark.parametrize("url", ["http://[", "//[", "http://[x]/cases", ""])
def test_a_part_of_a_page_that_was_at_no_url_leads_to_the_login(served: World, url: str) -> None:
    headers = {"hx-request": "true", "hx-current-url": url}
    answer = served.browser().get("/probe/submit", headers=headers)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login?next=%2F")


def test_a_login_leads_back_to_the_page(served: World) -> None:
    wanted = "/probe/submit?show=waiting&page=2"
    answer = served.browser().get(wanted)
    assert answer.status_code == 303
    form = served.browser().get(answer.headers["location"])
    assert 'value="/probe/submit?show=waiting&amp;page=2"' in form.text
    data = {"name": "Tess", "password": PASSWORD, "next": wanted}
    assert served.browser().post("/login", data=data).headers["location"] == wanted
    assert local_path(wanted) == wanted


def test_markup_in_a_name_is_escaped_and_no_name(served: World) -> None:
    markup = '"><script>alert(1)</script>'
    failed = served.browser().post("/login", data={"name": markup, "password": "wrong"})
    client = served.logged_in("Ada")
    form = {"csrf": csrf_of(client), "name": markup, "password": PASSWORD, "roles": ["submit"]}
    added = client.post("/users", data=form)
    role = client.post("/users", data=form | {"name": "eve", "roles": [markup]})
    path = client.get(f"/users/{markup.replace('/', '%2F')}")
    done = client.get("/users/Tess", params={"done": markup})
    assert (failed.status_code, added.status_code, role.status_code) == (401, 422, 422)
    assert (path.status_code, done.status_code) == (404, 200)
    for answer in (failed, added, role, path, done):
        assert "<script>alert" not in answer.text
    assert served.accounts.users.find("eve") is None
