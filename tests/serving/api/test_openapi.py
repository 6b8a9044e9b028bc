"""The API does what its OpenAPI document says, for requests that schemathesis makes up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema_rs import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from starlette.types import Receive, Scope, Send

from bcd.config.disclaimer import DISCLAIMER
from tests.serving.making import smear
from tests.serving.running import ALL, BASE, Running, running

EXAMPLES = 25  # of each operation

# A body that fits the schema is still no image, and a case that does not exist is no success.
LEFT_OUT = {"positive_data_acceptance"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An app in which nobody is refused for asking too often."""
    folder = tmp_path_factory.mktemp("api")
    with running(folder, "limits.requests_per_minute=1000000") as app:
        yield app


OPERATIONS = (
    "predict", "explain", "model", "list_cases", "open_case", "get_case", "add_images",
    "get_upload",
    "review_image", "sign_case", "erase_case", "case_report", "healthz", "readyz", "metrics",
    "case_report_object", "image_heatmap_object", "image_capture_object", "image_object",
)  # fmt: skip


@pytest.fixture(scope="module")
def document(api: Running) -> Any:
    """The document, and the app that it describes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":  # schemathesis would stop the app after each request
            await api.app(scope, receive, send)
            return
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})

    found = schemathesis.openapi.from_asgi("/v1/openapi.json", app, headers={"Host": "127.0.0.1"})
    found.config.update(base_url=BASE)
    found.config.checks.negative_data_rejection.expected_statuses = ["4xx"]
    return found


@pytest.fixture(scope="module")
def ids(api: Running) -> dict[str, str]:
    """A case with an image, and one that is answered later."""
    case = api.all.post("/v1/cases", json={"label": "a"}).json()["id"]
    path, kind = f"/v1/cases/{case}/images", {"Content-Type": "image/png"}
    added = api.all.post(path, content=smear(), headers=kind).json()
    headers = kind | {"Prefer": "respond-async"}
    queued = api.all.post(path, content=smear(1), headers=headers).json()
    upload = queued["images"][0]["upload"]
    return {"case_id": case, "image_id": added["images"][0]["id"], "upload": upload}


def _of_a_case(case: Any, ids: dict[str, str]) -> Any:
    """The same request about a case that exists."""
    case.path_parameters = {key: ids[key] for key in case.path_parameters}
    return case


@pytest.mark.parametrize("name", OPERATIONS)
def test_answers_are_as_documented(
    name: str, document: Any, api: Running, ids: dict[str, str]
) -> None:
    operation = document.find_operation_by_id(name)
    checks = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]
    fitting = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    known = fitting.map(lambda case: _of_a_case(case, ids))

    @given(case=fitting | wrong | known)
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        case.call_and_validate(headers=api.users[ALL].headers, checks=checks)

    check()


def _valid(value: object, schema: dict[str, Any], document: dict[str, Any]) -> bool:
    return bool(Draft202012Validator({**document, **schema}).is_valid(value))


def test_every_body_has_an_example_that_fits(api: Running) -> None:
    document = api.client.get("/v1/openapi.json").json()
    schemas, seen = document["components"]["schemas"], 0
    for methods in document["paths"].values():
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                name = content["schema"].get("$ref", "").rpartition("/")[2]
                example = content.get("example", schemas.get(name, {}).get("example"))
                assert example and _valid(example, content["schema"], document), operation
                seen += 1
    assert seen > sum("post" in methods for methods in document["paths"].values())
    for name in ("Problem", "Unanswered", "Answer"):
        assert _valid(schemas[name]["example"], schemas[name], document), name


def test_every_schema_that_is_named_is_there(api: Running) -> None:
    text = api.client.get("/v1/openapi.json").text
    named = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    schemas = api.client.get("/v1/openapi.json").json()["components"]["schemas"]
    assert "Problem" in named and named <= set(schemas)


def test_what_is_answered_if_no_image_can_be_is_described(api: Running) -> None:
    document = api.client.get("/v1/openapi.json").json()
    response = document["paths"]["/v1/predict"]["post"]["responses"]["422"]
    (schema,) = [content["schema"] for content in response["content"].values()]
    headers = {"Content-Type": "image/png"}
    got = api.all.post("/v1/predict", content=b"no image", headers=headers)
    assert got.status_code == 422 and _valid(got.json(), schema, document)
    for member in ("detail", "model", "images"):
        less = {key: value for key, value in got.json().items() if key != member}
        assert not _valid(less, schema, document), member


def test_every_operation_is_described(api: Running) -> None:
    document = api.client.get("/v1/openapi.json").json()
    assert DISCLAIMER in document["info"]["description"]
    found = {o["operationId"] for methods in document["paths"].values() for o in methods.values()}
    assert found == set(OPERATIONS)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["operationId"].islower(), (path, method)
            assert operation["summary"] and operation["description"]
            assert {"400", "500"} <= set(operation["responses"])
            secured = path.startswith("/v1")
            assert bool(operation.get("security")) == secured, path
            assert ("401" in operation["responses"]) == secured, path
