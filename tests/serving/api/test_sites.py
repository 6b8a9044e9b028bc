"""Several sites on one server: who sees what, and how images are answered."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from bcd.serving.accounts.user import ROLES
from bcd.serving.records.tables import RECORDS
from tests.serving.api.test_permissions import BODIES, FIELDS, TABLE
from tests.serving.making import IDENTITY, smear
from tests.serving.running import BASE, As, Running, running

PNG = {"Content-Type": "image/png"}
LABEL = "seen in the west only"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a site of its own and two more, with a user for each of these."""
    overrides = ("site=main", "+sites.east.threshold=0.999999", "+sites.west={}")
    with running(tmp_path_factory.mktemp("sites"), *overrides) as app:
        for name in ("east", "west"):
            app.services.accounts.users.add("", name, "a long enough phrase", ROLES, site=name)
            token = app.services.accounts.tokens.add("", name, ROLES, 1)
            app.users[name] = As(app.client, token)
        yield app


@pytest.fixture(scope="module")
def case(sites: Running) -> dict[str, str]:
    """A case of the west with an image, and a user and token of it, as they are in addresses."""
    west = sites.users["west"]
    case_id = west.post("/v1/cases", json={"label": LABEL}).json()["id"]
    added = west.post(f"/v1/cases/{case_id}/images", content=smear(), headers=PNG).json()
    headers = {**PNG, "Prefer": "respond-async"}
    later = west.post(f"/v1/cases/{case_id}/images", content=smear(2), headers=headers).json()
    (upload,) = later["images"]
    last = time.monotonic() + 60
    while west.get(upload["status"]).json()["state"] == "waiting":
        assert time.monotonic() < last
        time.sleep(0.05)
    (token,) = (one.id for one in sites.services.accounts.tokens.all() if one.user == "west")
    return {
        "case_id": case_id, "image_id": added["images"][0]["id"], "name": "west", "number": token,
        "upload": upload["upload"],
    }  # fmt: skip


OF_ONE = [row for row in TABLE if "{" in row]
_FORMS_AGAIN = [f"GET /cases/{{case_id}}/{name}" for name in ("images", "sign", "erase")] + [
    "GET /cases/{case_id}/images/{image_id}/review"
]  # lead to the page, whatever the case


@pytest.mark.parametrize("row", [row for row in OF_ONE if row not in _FORMS_AGAIN])
def test_nothing_of_another_site_is_there(sites: Running, case: dict[str, str], row: str) -> None:
    method, _, path = row.partition(" ")
    options: dict[str, Any] = {}
    if path in BODIES:
        options["json"] = BODIES[path]
    elif path.endswith("/images") and method == "POST":
        options = {"content": smear(), "headers": PNG}
    elif method == "POST":
        options["data"] = FIELDS
    headers = {"Origin": BASE, **options.pop("headers", {})}
    before = sites.services.records.case(case["case_id"])
    got = sites.users["east"].request(method, path.format(**case), headers=headers, **options)
    assert got.status_code == 404 and LABEL not in got.text
    assert sites.services.records.case(case["case_id"]) == before
    if method == "GET" and not path.endswith(".dcm"):
        here = sites.users["west"].get(path.format(**case))
        assert here.status_code == 200 or here.headers["location"].startswith("/static")


def test_lists_have_only_what_the_user_sees(sites: Running, case: dict[str, str]) -> None:
    east, west = sites.users["east"], sites.users["west"]
    own = east.post("/v1/cases", json={"label": "of the east"}).json()["id"]
    for user, ids in (
        (east, {own}),
        (west, {case["case_id"]}),
        (sites.all, {own, case["case_id"]}),
    ):
        listed = user.get("/v1/cases").json()["cases"]
        assert {row["id"] for row in listed} == ids
    (row,) = sites.all.get("/v1/cases?site=west").json()["cases"]
    assert (row["id"], row["site"]) == (case["case_id"], "west")
    assert east.get("/v1/cases?site=west").status_code == 403
    assert LABEL not in east.get("/cases", headers={"Accept": "text/html"}).text
    assert LABEL in sites.all.get("/cases", headers={"Accept": "text/html"}).text
    users = re.findall(r'href="/users/(\w+)"', east.get("/users").text)
    assert users == ["east"]
    assert [one["name"] for one in east.get("/v1/model").json()["sites"]] == ["east"]


def test_users_act_for_their_site_and_others_name_one(sites: Running) -> None:
    east = sites.users["east"]
    assert east.post("/v1/cases", json={"label": "a", "site": "west"}).status_code == 403
    assert east.post("/v1/predict?site=west", content=smear(), headers=PNG).status_code == 403
    assert sites.all.post("/v1/cases", json={"label": "a", "site": "north"}).status_code == 400
    assert sites.all.post("/v1/predict?sit=east", content=smear(), headers=PNG).status_code == 400
    for given, site in (({}, "main"), ({"site": "west"}, "west")):
        made = sites.all.post("/v1/cases", json={"label": "a", **given}).json()["id"]
        assert sites.all.get(f"/v1/cases/{made}").json()["site"] == site
    form = {"label": "by form", "site": "east"}
    made = sites.all.post("/cases", data=form, headers={"Origin": BASE})
    assert sites.services.records.site_of(made.headers["location"].rpartition("/")[2]) == "east"


def test_an_admin_of_a_site_manages_its_users_only(sites: Running) -> None:
    east, users = sites.users["east"], sites.services.accounts.users
    form = {"name": "new", "password": "a long enough phrase", "roles": "review"}
    for site, status in (("west", 403), ("", 303)):
        data = {**form, "site": site}
        assert east.post("/users", data=data, headers={"Origin": BASE}).status_code == status
    account = users.find("new")
    assert account is not None and account.site == "east"
    got = east.post("/users/new/site", data={"site": ""}, headers={"Origin": BASE})
    assert got.status_code == 403
    for site, status in (("nowhere", 422), ("west", 303)):
        data, headers = {"site": site}, {"Origin": BASE}
        assert sites.all.post("/users/new/site", data=data, headers=headers).status_code == status
    account = users.find("new")
    assert account is not None and account.site == "west"


def test_an_answer_says_which_threshold_it_has(sites: Running) -> None:
    plain, own = (
        sites.all.post(f"/v1/predict?site={site}", content=smear(1), headers=PNG).json()["images"][
            0
        ]
        for site in ("west", "east")
    )
    assert plain["probabilities"] == own["probabilities"]
    assert (plain["threshold"], own["threshold"]) == (None, 0.999999)
    benign = IDENTITY.classes[IDENTITY.benign or 0]
    assert own["malignant"] == (1 - own["probabilities"][benign] >= 0.999999)
    assert plain["malignant"] and not own["malignant"]
    assert "threshold disagrees" in own["reasons"] and own["refer"]
    said = {one["name"]: one["facts"] for one in sites.all.get("/v1/model").json()["sites"]}
    assert "does not hold" in said["east"] and not said["west"]
    case = sites.users["east"].post("/v1/cases", json={"label": "a"}).json()["id"]
    added = sites.users["east"].post(f"/v1/cases/{case}/images", content=smear(1), headers=PNG)
    image = added.json()["images"][0]["id"]
    for path in (f"/cases/{case}", f"/cases/{case}/images/{image}"):
        page = sites.users["east"].get(path).text
        assert "the sensitivity that its policy guarantees does not hold" in page
    report = sites.users["east"].get(f"/v1/cases/{case}/report").text.splitlines()
    row = dict(zip(*(line.strip('"').split('","') for line in report[:2]), strict=True))
    assert (row["site"], row["threshold"]) == ("east", "0.999999")


def test_every_record_of_a_site_says_so(sites: Running, case: dict[str, str]) -> None:
    with sites.services.records.engine.connect() as connection:
        columns = RECORDS.c.user_name, RECORDS.c.site, RECORDS.c.kind
        rows = connection.execute(select(*columns)).all()
    of_west = {kind for user, site, kind in rows if user == "west" and site == "west"}
    assert {"case", "answer"} <= of_west
    assert all(site == user for user, site, _ in rows if user in ("east", "west"))


def test_the_dashboard_has_each_site_and_metrics_name_it(sites: Running) -> None:
    sites.users["west"].post("/v1/predict", content=smear(), headers=PNG)
    text = sites.all.get("/dashboard?site=west").text
    assert re.findall(r"site=(\w*)\"", text) == ["main", "east", "west"]
    assert "Everything below is of the site west." in text
    assert sites.users["east"].get("/dashboard?site=west").status_code == 403
    assert "Table of sites" not in sites.users["east"].get("/dashboard").text
    labelled = re.findall(
        r'bcd_(?:answers_total|alarms)\{.*site="(\w*)"', sites.all.get("/metrics").text
    )
    assert {"main", "east", "west"} == set(labelled)
