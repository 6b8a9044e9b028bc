"""The first administrator, and the pages on which admins look after users."""

from __future__ import annotations

import re

import pytest

from bcd.serving.errors import ConflictError
from tests.serving.accounts.making import OTHER, PASSWORD, World, alert, csrf_of, world


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A server without users."""
    return world(tmp_path_factory.mktemp("empty"))


def test_the_first_admin_is_made_by_the_printed_link_once(empty: World) -> None:
    client = empty.browser()
    assert "open the link" in client.get("/login").text
    link = empty.accounts.setup_path()
    assert empty.accounts.setup_path() == link
    token = link.partition("=")[2]
    form = {"token": token, "name": "Ada", "password": PASSWORD, "again": PASSWORD}
    for wrong in ("", token[:-1], token + "x", "ä"):
        assert client.get("/setup", params={"token": wrong}).status_code == 403
        assert client.post("/setup", data=form | {"token": wrong}).status_code == 403
    assert client.get(link).status_code == 200
    for changed, why in (
        ({"again": OTHER}, "The two passwords differ"),
        ({"password": "short", "again": "short"}, "A password has at least 12 characters"),
    ):
        answer = client.post("/setup", data=form | changed)
        assert (answer.status_code, alert(answer.text)) == (422, why)
    forged = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert client.post("/setup", data=form, headers=forged).status_code == 403
    assert not empty.accounts.users.all()
    assert client.post("/setup", data=form).headers["location"] == "/login"
    assert client.post("/setup", data=form | {"name": "Eve"}).status_code == 403
    assert client.get(link).status_code == 403
    assert empty.accounts.setup_path() == ""
    (account,) = empty.accounts.users.all()
    assert (account.name, len(account.roles)) == ("Ada", 4)
    assert "open the link" not in client.get("/login").text
    assert token not in repr(empty.events())


def test_without_a_printed_link_there_is_no_set_up(empty: World) -> None:
    form = {"token": "", "name": "Eve", "password": PASSWORD, "again": PASSWORD}
    assert empty.browser().post("/setup", data=form).status_code == 403
    assert empty.browser().get("/setup").status_code == 403


def test_a_link_ends_when_an_admin_was_added_otherwise(empty: World) -> None:
    link = empty.accounts.setup_path()
    empty.accounts.users.add("", "Tess", PASSWORD, ["submit"])
    assert empty.browser().get(link).status_code == 200
    empty.accounts.users.add("", "Ada", PASSWORD, ["admin"])
    assert empty.browser().get(link).status_code == 403


def test_an_admin_adds_and_changes_a_user(served: World) -> None:
    admin = served.logged_in("ada")
    csrf = csrf_of(admin)

    def post(path: str, **form: object) -> tuple[int, str]:
        answer = admin.post(path, data={"csrf": csrf, **form})
        return answer.status_code, answer.headers.get("location") or alert(answer.text)

    added = {"name": "Uma", "password": PASSWORD, "roles": ["review", "sign"]}
    assert post("/users", **added) == (303, "/users/Uma?done=added")
    assert post("/users", **added) == (409, "There is already a user of this name")
    assert post("/users", **added | {"roles": []})[0] == 422
    assert post("/users", **added | {"name": "Una", "roles": ["root"]})[0] == 422
    uma = served.accounts.users.find("uma")
    assert uma is not None and uma.must_change and uma.roles == {"review", "sign"}
    assert "The user was added." in admin.get("/users/Uma?done=added").text
    assert post("/users/uma/roles", roles=["submit"]) == (303, "/users/uma?done=roles")
    assert post("/users/uma/roles")[0] == 422
    assert post("/users/uma/password", password="short")[0] == 422
    assert post("/users/uma/password", password=OTHER) == (303, "/users/uma?done=password")
    assert served.accounts.log_in("uma", OTHER, "") is not None
    assert post("/users/uma/disable") == (303, "/users/uma?done=disabled")
    assert served.accounts.log_in("uma", OTHER, "") is None
    assert "disabled" in admin.get("/users").text
    assert post("/users/uma/enable") == (303, "/users/uma?done=enabled")
    for path in ("roles", "password", "disable", "enable", "tokens"):
        form = {"roles": ["submit"], "password": OTHER, "days": "1"}
        assert post(f"/users/nobody/{path}", **form)[0] == 404
    kinds = [kind for by, kind, facts in served.events() if facts.get("name") == "Uma"]
    assert kinds == [
        "user added", "user roles", "user password", "user disabled", "user enabled",
    ]  # fmt: skip
    assert {by for by, _, facts in served.events() if facts.get("name") == "Uma"} == {"Ada"}


def test_an_admin_makes_a_token_and_sees_it_once(served: World) -> None:
    admin = served.logged_in("ada")
    form = {"csrf": csrf_of(admin), "roles": ["submit"], "days": "30"}
    answer = admin.post("/users/Tess/tokens", data=form)
    (token,) = re.findall(r"bcd_[\w-]{43}", answer.text)
    assert answer.headers["cache-control"] == "no-store"
    assert served.program(token).get("/v1/probe/submit").status_code == 200
    again = admin.get("/users/Tess")
    assert token not in again.text
    for wrong in ({"days": "0"}, {"days": "-1"}, {"days": "1e9"}, {"days": "²"}, {"roles": ["x"]}):
        assert admin.post("/users/Tess/tokens", data=form | wrong).status_code == 422
    number = re.findall(r"/users/Tess/tokens/([0-9a-f]+)/revoke", again.text)[-1]
    path = f"/users/Tess/tokens/{number}/revoke"
    assert admin.post(path, data={"csrf": form["csrf"]}).status_code == 303
    assert served.program(token).get("/v1/probe/submit").status_code == 401
    for gone in (path, path.replace(number, "%00"), path.replace(number, "%27--")):
        assert admin.post(gone, data={"csrf": form["csrf"]}).status_code == 404


def test_the_last_admin_stays_one(served: World) -> None:
    admin = served.logged_in("ada")
    csrf = csrf_of(admin)
    served.accounts.users.add("Ada", "Easta", PASSWORD, ["admin"], site="east")
    for path in ("disable", "roles"):  # an admin of a site is not one of all
        form = {"csrf": csrf, "roles": ["submit"]}
        assert admin.post(f"/users/ada/{path}", data=form).status_code == 409
    with pytest.raises(ConflictError, match="Nobody else is admin of all sites"):
        served.accounts.users.set_site("Ada", "ada", "east")
    served.accounts.users.set_site("Ada", "Easta", "west")  # whom others manage
    served.accounts.users.set_disabled("Ada", "Easta", True)
    form = {"csrf": csrf, "roles": ["admin", "sign"]}
    assert admin.post("/users/ada/roles", data=form).status_code == 303
    assert admin.get("/users").status_code == 200  # this session goes on
    served.accounts.users.add("Ada", "Second", PASSWORD, ["admin"])
    assert admin.post("/users/ada/disable", data={"csrf": csrf}).status_code == 303
    assert admin.get("/users").status_code == 303
    served.accounts.users.set_disabled("Second", "ada", False)


@pytest.mark.parametrize(
    "path", ["", "/Tess/roles", "/Tess/password", "/Tess/disable", "/Tess/tokens"]
)
def test_others_do_not_look_after_users(served: World, path: str) -> None:
    form = {"name": "Eve", "password": PASSWORD, "roles": ["admin"], "days": "9"}
    tess = served.logged_in("tess")
    before = served.accounts.users.all(), served.accounts.tokens.all()
    answer = tess.post(f"/users{path}", data=form | {"csrf": csrf_of(tess)})
    assert answer.status_code == 403
    assert served.browser().post(f"/users{path}", data=form).status_code == 303
    assert served.logged_in("ada").post(f"/users{path}", data=form).status_code == 403  # no CSRF
    assert (served.accounts.users.all(), served.accounts.tokens.all()) == before
    assert tess.get("/users").status_code == 403


def test_every_page_says_what_it_is_for(served: World) -> None:
    admin = served.logged_in("ada")
    for path in ("/account", "/users", "/users/Tess"):
        assert "For research only. Not a diagnosis." in admin.get(path).text
    assert "For research only. Not a diagnosis." in served.browser().get("/login").text
