"""Limits on bytes, counts, time, rates and hosts; nothing uploaded is written to a file."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bcd.config.serve import LimitsConfig
from bcd.errors import ConfigError
from bcd.serving.web import bodies
from bcd.serving.web.bodies import SMALL, BodyLimits
from bcd.serving.web.rates import RateLimits
from tests.serving.making import serve_config, smear
from tests.serving.running import Running, running

PNG = {"Content-Type": "image/png"}
IMAGES, MEGABYTES, REQUEST, PER_MINUTE = 3, 0.2, 0.5, 40
LIMITS = LimitsConfig(8, 5.0, MEGABYTES, IMAGES, REQUEST, 2 * REQUEST, 100, PER_MINUTE, 10, 1.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An app with small limits."""
    overrides = (f"limits.image_mb={MEGABYTES}", f"limits.images={IMAGES}")
    with running(tmp_path_factory.mktemp("small"), *overrides) as app:
        yield app


def _form(count: int, image: bytes, **part: str) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("images", (part.get("name", "a.png"), image, "image/png"))] * count


def test_more_images_than_allowed_are_refused(small: Running) -> None:
    assert small.all.post("/v1/predict", files=_form(IMAGES, smear())).status_code == 200
    assert small.all.post("/v1/predict", files=_form(IMAGES + 1, smear())).status_code == 413


def test_an_image_with_too_many_bytes_is_refused(small: Running) -> None:
    large = smear() + bytes(int(MEGABYTES * 1e6))
    assert small.all.post("/v1/predict", content=large, headers=PNG).status_code == 413
    assert small.all.post("/v1/explain", content=large, headers=PNG).status_code == 413


def test_a_form_with_too_many_fields_is_refused(small: Running) -> None:
    fields = {str(i): "x" for i in range(40)}
    got = small.all.post("/v1/predict", files=_form(1, smear()), data=fields)
    assert got.status_code == 413


def test_a_large_json_body_is_refused(small: Running) -> None:
    got = small.all.post("/v1/cases", json={"label": "x" * SMALL})
    assert got.status_code == 413


def test_large_headers_and_addresses_are_refused(small: Running) -> None:
    assert small.all.get("/v1/cases", headers={"X-Large": "x" * 20_000}).status_code == 431
    assert small.all.get("/v1/cases?before=" + "1" * 5_000).status_code == 431


def test_a_long_file_name_is_cut(small: Running) -> None:
    case = small.all.post("/v1/cases", json={"label": "names"}).json()["id"]
    files = _form(1, smear(), name="n" * 3000 + ".png")
    got = small.all.post(f"/v1/cases/{case}/images", files=files)
    assert got.status_code == 201
    assert len(got.json()["images"][0]["name"]) <= 255


def test_a_body_is_not_read_beyond_its_limit(small: Running) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100 * IMAGES * MEGABYTES * 1e6:
            sent += 65_536
            yield bytes(65_536)

    got = small.all.post("/v1/predict", content=endless(), headers=PNG)
    assert got.status_code == 413


def _call(
    limits: BodyLimits | RateLimits,
    messages: list[Any],
    headers: list[tuple[bytes, bytes]],
    **more: Any,
) -> int:
    """Status of a request whose body arrives as `messages`; a number is a pause in seconds."""
    scope = {
        "type": "http", "path": "/v1/predict", "headers": headers, "method": "POST",
        "query_string": b"", "state": {}, **more,
    }  # fmt: skip
    statuses: list[int] = []

    async def receive() -> Any:
        while isinstance(messages[0], float):
            await asyncio.sleep(messages.pop(0))
        return messages.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    asyncio.run(limits(scope, receive, send))
    return statuses[0]


def _reading(statuses: list[int]) -> Any:
    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            statuses.append(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    return app


def _part(count: int, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": bytes(count), "more_body": more}


CHUNKED = [(b"transfer-encoding", b"chunked")]


def test_a_slow_body_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_PAUSE", 0.05)
    parts = [_part(10), 5.0, _part(10, more=False)]
    assert _call(BodyLimits(_reading([]), LIMITS), parts, CHUNKED) == 408


def test_a_trickling_body_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_SLOWEST", 1e9)
    hasty = LimitsConfig(**(vars(LIMITS) | {"seconds": 0.2}))
    parts = [part for _ in range(50) for part in (_part(1), 0.02)]
    assert _call(BodyLimits(_reading([]), hasty), parts, CHUNKED) == 408


def test_a_chunked_body_is_counted_while_it_arrives() -> None:
    read: list[int] = []
    parts = [_part(100_000) for _ in range(1000)]
    assert _call(BodyLimits(_reading(read), LIMITS), parts, CHUNKED) == 413
    assert len(read) <= REQUEST * 1e6 / 100_000 + 4


def test_bodies_of_all_requests_together_have_a_limit() -> None:
    limits = BodyLimits(_reading([]), LIMITS)
    held = limits.held
    whole = [_part(100_000, more=False)]
    assert _call(limits, list(whole), CHUNKED) == 200
    assert limits.held == held  # given back
    limits.take((limits.room - limits.held) // 2)
    assert _call(limits, list(whole), CHUNKED) == 429
    assert _call(limits, list(whole), [(b"content-length", b"100000")]) == 429


def test_room_for_bodies_is_held_until_the_answer_and_counts_the_copies() -> None:
    held: list[int] = []
    size = 400_000

    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        held.append(limits.held)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    limits = BodyLimits(app, LIMITS)
    assert _call(limits, [_part(size, more=False)], CHUNKED) == 200
    assert held == [2 * size] and limits.held == 0


def test_images_of_a_request_together_have_a_limit() -> None:
    for size, status in ((int(REQUEST * 1e6), 200), (int(REQUEST * 1e6) + SMALL + 10_000, 413)):
        limits = BodyLimits(_reading([]), LIMITS)
        assert _call(limits, [_part(size, more=False)], CHUNKED) == status


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["limits.request_mb=20"], "limits.request_mb=20"),
        (["limits.memory_mb=200"], "limits.memory_mb=200"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(
    overrides: list[str], key: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=key):
        serve_config(tmp_path, *overrides)


def test_no_file_is_written_by_an_upload(
    small: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # a file there would fail
    large = smear() + os.urandom(150_000) * 1
    spooled = os.urandom(1_500_000)  # beyond what Starlette keeps in memory, below the limit
    with running(tmp_path / "records", "limits.image_mb=4") as app:
        got = app.all.post("/v1/predict", files=_form(2, smear() + spooled))
        assert got.status_code == 200, got.text
    assert small.all.post("/v1/predict", files=_form(3, large)).status_code == 200
    assert not (tmp_path / "none").exists()


def test_requests_per_minute_are_limited_by_user_and_address(tmp_path: Path) -> None:
    most = 20
    with running(tmp_path, f"limits.requests_per_minute={most}") as app:
        reader, other = app.users["review"], app.users["sign"]
        assert reader.get("/v1/cases").status_code == 200
        assert other.get("/v1/cases").status_code == 200
        statuses = [reader.get("/v1/cases").status_code for _ in range(most + 1)]
        assert statuses == [200] * most + [429]
        assert other.get("/v1/cases").status_code == 200  # another user has a count of their own
        for i in range(most):  # made-up tokens are one address
            app.client.get("/v1/cases", headers={"Authorization": f"Bearer bcd_{i}"})
        refused = app.client.get("/v1/cases", headers={"Authorization": "Bearer bcd_x"})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert other.get("/v1/cases").status_code == 200
        assert app.client.get("/healthz").status_code == 200


def test_behind_a_proxy_requests_count_for_the_user_that_it_names(tmp_path: Path) -> None:
    most, proxy, stranger = 5, "192.0.2.1", "198.51.100.1"
    cfg = serve_config(
        tmp_path, f"limits.requests_per_minute={most}", f"proxy.trusted=[{proxy}]",
        "proxy.user_header=X-User",
    )  # fmt: skip
    limits = RateLimits(_reading([]), cfg)

    def count(name: str, peer: str = proxy, client: str = "10.0.0.1", **more: str) -> list[int]:
        """Statuses of requests that differ in their cookies."""
        sent = {"x-user": name} | more
        statuses = []
        for i in range(most + 1):
            headers = [(k.encode(), v.encode()) for k, v in (sent | {"cookie": f"a={i}"}).items()]
            scope = {"client": (client, 1), "bcd.peer": peer}
            statuses.append(_call(limits, [_part(1, more=False)], headers, **scope))
        return statuses

    limited = [200] * most + [429]
    assert count("ada", authorization="Basic eA==") == limited
    assert count("ADA", client="10.0.0.2") == [429] * (most + 1)  # the same user
    assert count("eve") == limited
    assert count("bob", peer=stranger, client=stranger) == limited  # the address
    assert count("eva", peer=stranger, client=stranger) == [429] * (most + 1)


def test_other_hosts_are_refused(small: Running) -> None:
    wrong = ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1"]
    wrong += ["127.0.0.1:80@evil.example", "[127.0.0.1]evil.example", "[::1]:x", "[::1]80"]
    for host in wrong:
        assert small.all.get("/v1/cases", headers={"Host": host}).status_code == 421, host
    for host in ("127.0.0.1:8000", "localhost", "[::1]:80", "LOCALHOST:1"):
        assert small.all.get("/v1/cases", headers={"Host": host}).status_code == 200, host


def test_the_host_of_the_url_is_allowed(tmp_path: Path) -> None:
    with running(tmp_path, "url=https://smears.example.org/") as app:
        assert app.all.get("/v1/cases", headers={"Host": "smears.example.org"}).status_code == 200
        assert app.all.get("/v1/cases", headers={"Host": "smears.example"}).status_code == 421
