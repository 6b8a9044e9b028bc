"""Connections that send slowly or too much, and who is at the other end of one."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from bcd.serving import start
from bcd.serving.web import connections, protocol
from bcd.serving.web.connections import Connections
from bcd.serving.web.peers import Peers
from bcd.serving.web.protocol import Protocol
from tests.serving.making import serve_config
from tests.serving.running import Running

SECONDS = 0.3
MUCH = 30_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def _answers(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, whatever the body."""
    await send(
        {"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"no"})


async def _answers_late(scope: Any, receive: Any, send: Any) -> None:
    """Answers after three times the time that a head may take."""
    await asyncio.sleep(3 * SECONDS)
    await _answers(scope, receive, send)


async def _answers_much(scope: Any, receive: Any, send: Any) -> None:
    """Sends more than the buffers of a connection hold."""
    start = {"type": "http.response.start", "status": 200}
    await send(start | {"headers": [(b"content-length", b"%d" % MUCH)]})
    await send({"type": "http.response.body", "body": bytes(MUCH)})


def _connected(
    scenario: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    app: Any = _answers,
    **named: Any,
) -> None:
    """Runs a scenario on a connection, at most ten seconds."""

    async def run() -> None:
        config = uvicorn.Config(app, http=Protocol, log_config=None, lifespan="off", ws="none")
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: Protocol(config, state, {}, **named), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.wait_for(scenario(reader, writer), 10)
        writer.close()
        server.close()

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-", b"\r\n"])
def test_a_connection_without_a_request_is_closed(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", SECONDS)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert await reader.read() == b""

    _connected(scenario)


def test_headers_that_trickle_do_not_get_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", SECONDS)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        since = time.monotonic()
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        while not reader.at_eof() and time.monotonic() - since < 8:
            writer.write(b"a")
            await asyncio.sleep(SECONDS / 10)
        assert reader.at_eof()

    _connected(scenario)


def test_what_follows_an_answer_has_its_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", SECONDS)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        assert b"413" in await reader.readline()
        writer.write(b"GET /")
        assert (await reader.read()).endswith(b"no")

    _connected(scenario)


def test_a_refused_body_is_dropped_for_a_while_so_that_the_answer_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "LINGER_BYTES", 1_000_000)
    sent = 0

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        assert b"413" in await reader.readline()
        with pytest.raises(ConnectionError):
            while sent < 500_000_000:
                writer.write(bytes(100_000))
                await writer.drain()
                sent += 100_000

    _connected(scenario)
    assert 1_000_000 <= sent < 100_000_000


def test_a_refused_body_that_stops_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", SECONDS)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab")
        assert (await reader.read()).endswith(b"no")

    _connected(scenario)


def test_a_request_that_is_being_answered_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", SECONDS)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        assert b"413" in await reader.readline()

    _connected(scenario, _answers_late)


def test_a_client_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "READING_SECONDS", SECONDS)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        await asyncio.sleep(4 * SECONDS)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(MUCH)

    _connected(scenario, _answers_much)


def test_a_client_that_reads_slowly_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "READING_SECONDS", SECONDS)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        got, since = 0, time.monotonic()
        while part := await reader.read(4_000_000):
            got += len(part)
            if got >= MUCH:
                break
            if time.monotonic() - since < 4 * SECONDS:
                await asyncio.sleep(SECONDS / 3)
        assert got >= MUCH and time.monotonic() - since > 3 * SECONDS

    _connected(scenario, _answers_much)


@pytest.mark.parametrize("sent", [b"no request\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000])
def test_what_is_no_request_is_refused_like_others(sent: bytes) -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        head, body = (await reader.read()).split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ") and b"content-security-policy: " in head
        assert b"content-type: application/problem+json" in head
        assert json.loads(body)["status"] == 400

    _connected(scenario)


def test_connections_beyond_the_limits_are_told_so(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "EACH", 2)
    monkeypatch.setattr(protocol, "CROWDED_SECONDS", SECONDS)
    held = Connections()

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        assert b" 421 " in await reader.readline()  # answered
        address = writer.get_extra_info("peername")
        second, crowded, idle = [await asyncio.open_connection(*address) for _ in range(3)]
        crowded[1].write(GET)
        head, body = (await crowded[0].read()).split(b"\r\n\r\n")  # to the end: it is closed
        assert b" 503 " in head and b"retry-after: " in head and b"x-frame-options: " in head
        assert json.loads(body)["status"] == 503
        assert await idle[0].read() == b""
        second[1].write(GET)
        assert b" 421 " in await second[0].readline()
        second[1].close()
        await asyncio.sleep(0.05)
        _, again = opened = await asyncio.open_connection(*address)
        again.write(GET)
        assert b" 421 " in await opened[0].readline()
        again.close()

    _connected(scenario, served.app, held=held)


def test_connections_of_a_proxy_are_limited_together_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "EACH", 2)
    monkeypatch.setattr(connections, "MOST", 6)
    held = Connections(["10.0.0.0/24"])
    assert [held.add("10.0.0.1") for _ in range(4)] == [False] * 4
    assert [held.add("10.0.1.1") for _ in range(3)] == [False, False, True]
    held.remove("10.0.1.1")
    assert [held.add("10.0.1.2"), held.full] == [True, False]
    assert [held.add("10.0.0.1") for _ in range(3)] == [True] * 3 and held.full


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate")
def test_an_encrypted_connection_without_a_handshake_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "_HANDSHAKE", SECONDS)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=a"]
    words += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True, timeout=20)
    cfg = serve_config(tmp_path, f"tls.key={key}", f"tls.certificate={certificate}")

    async def run() -> None:
        with start._listen(cfg) as listener:
            server = start._Server(start._uvicorn(FastAPI(), cfg), FastAPI(), lambda: None)
            server.config.load()
            server.lifespan = server.config.lifespan_class(server.config)
            await server.startup([listener])
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            await server.shutdown([listener])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("trusted", "peer", "client", "scheme"),
    [
        ([], "10.0.0.1", "10.0.0.1", "http"),
        (["10.0.0.2"], "10.0.0.1", "10.0.0.1", "http"),
        (["10.0.0.1"], "10.0.0.1", "192.0.2.7", "https"),
        (["10.0.0.0/24"], "10.0.0.1", "192.0.2.7", "https"),
    ],
)
def test_only_trusted_proxies_say_who_their_client_is(
    trusted: list[str], peer: str, client: str, scheme: str
) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    headers = [(b"x-forwarded-for", b"203.0.113.9, 192.0.2.7"), (b"x-forwarded-proto", b"https")]
    scope = {"type": "http", "client": (peer, 1), "scheme": "http", "headers": headers}
    asyncio.run(Peers(app, trusted)(scope, None, None))  # type: ignore[arg-type]
    found = seen[0]
    assert (found["bcd.peer"], found["client"][0], found["scheme"]) == (peer, client, scheme)
