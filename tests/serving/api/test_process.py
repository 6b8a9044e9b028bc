"""The server as a process: connections, a full queue, time-outs, and how it stops."""

from __future__ import annotations

import signal
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bcd.errors import BcdError, ConfigError
from bcd.serving import start
from bcd.serving.engine.queue import Engine
from bcd.serving.start import serve
from tests.serving.making import IDENTITY, StubModel, serve_config, smear
from tests.serving.process import Server, serving

SECONDS = 0.8  # of each answer
QUEUE = 3
LIMITS = (f"limits.queue={QUEUE}", "limits.seconds=2", "limits.image_mb=1", "limits.images=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the server's records; made by the server."""
    return tmp_path_factory.mktemp("process") / "records"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A slow server with small limits; the last test stops it."""
    with serving(folder, SECONDS, *LIMITS) as one:
        yield one


def _predict(server: Server) -> httpx.Response:
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "image/png"}
    return httpx.post(f"{server.url}/v1/predict", content=smear(), headers=headers, timeout=30)


def _raw(server: Server, *parts: bytes) -> bytes:
    """What is answered to bytes; empty if the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            return connection.recv(65_536)
        except (ConnectionResetError, BrokenPipeError):
            return b""


def _head(server: Server, *lines: str, path: str = "/v1/predict") -> bytes:
    token = f"Authorization: Bearer {server.token}"
    given = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", token, "Content-Type: image/png", *lines)
    return "\r\n".join((*given, "", "")).encode()


def test_the_console_says_which_model_is_served(server: Server) -> None:
    assert server.process.stdout is not None
    told = f"Model: {IDENTITY.name} ({IDENTITY.kind}, sha256 {IDENTITY.sha256[:12]})\n"
    assert server.process.stdout.readline() == told


def test_only_the_owner_may_look_into_the_folder(server: Server, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not [path for path in folder.iterdir() if "hydra" in path.name or path.suffix == ".log"]


def test_garbage_on_a_connection_is_refused(server: Server) -> None:
    chunked = _head(server, "Transfer-Encoding: chunked")
    refused = (b"HTTP/1.1 4", b"")  # a status, or a closed connection
    garbage = (
        (b"\x16\x03\x01" + bytes(200),),
        (b"GET / HTTP/9.9\r\n\r\n",),
        (b"GET /\x00\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",),
        (chunked, b"ZZZ\r\n", b"junk"),
        (chunked, b"FFFFFFFFFFFFFFFFF\r\n"),
        (chunked, b"5\r\nabc\r\n"),
        (_head(server, "Content-Length: 5", "Content-Length: 6"), b"abcdef"),
        (_head(server, "Content-Length: 5", "Transfer-Encoding: chunked"), b"0\r\n\r\n"),
        (_head(server, f"Content-Length: {10**12}"),),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000,),
        (b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % i for i in range(20_000)),),
    )
    for parts in garbage:
        got = _raw(server, *parts)
        assert got.startswith(refused[0]) or got == refused[1], (parts[0][:60], got[:200])
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_the_answer_to_a_large_body_arrives_before_its_end(server: Server) -> None:
    large = _raw(
        server, _head(server, "Transfer-Encoding: chunked"), b"300000\r\n" + bytes(3 << 20)
    )
    assert b"413" in large.split(b"\r\n")[0]
    assert b"application/problem+json" in large


def test_no_header_names_the_software(server: Server) -> None:
    assert "server" not in httpx.get(f"{server.url}/healthz").headers


def test_a_full_queue_gives_429_and_a_slow_answer_504(server: Server) -> None:
    with ThreadPoolExecutor(2 * QUEUE) as pool:
        answers = list(pool.map(lambda _: _predict(server), range(2 * QUEUE)))
    statuses = sorted(answer.status_code for answer in answers)
    assert set(statuses) <= {200, 429, 504}
    assert statuses.count(429) >= QUEUE - 1
    busy = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in busy)
    # QUEUE answers of SECONDS take longer than limits.seconds in all
    assert 200 in statuses and 504 in statuses


def test_what_was_accepted_is_answered_when_the_server_stops(server: Server, folder: Path) -> None:
    _wait_for_queue(server, 0)
    with ThreadPoolExecutor(1) as pool:
        answer: Future[httpx.Response] = pool.submit(_predict, server)
        _wait_for_queue(server, 1)
        server.process.send_signal(signal.SIGTERM)
        got = answer.result()
    assert got.status_code == 200 and got.json()["images"][0]["class"]
    assert server.process.wait(20) == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/readyz")
    with sqlite3.connect(folder / "records.sqlite") as database:
        tables = database.execute("SELECT sql FROM sqlite_master").fetchall()
        assert tables
        told = "\n".join(database.iterdump())
    assert told.index("server started") < told.index("server stopped")
    assert IDENTITY.sha256 in told
    log = server.log.read_text()
    assert "Traceback" not in log and server.token not in log


@pytest.mark.parametrize("hurried", [False, True], ids=["SIGTERM", "SIGINT twice"])
def test_what_a_stop_does_not_wait_for_gets_503(hurried: bool, tmp_path: Path) -> None:
    wait = 30 if hurried else 0.5
    with serving(tmp_path / "records", 6, f"limits.stop_seconds={wait}") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sending:
            sending.sendall(_head(server, "Content-Length: 1000") + b"not all")
            with ThreadPoolExecutor(2) as pool:
                answers = [pool.submit(_predict, server) for _ in range(2)]
                _wait_for_queue(server, 2)
                begun = time.monotonic()
                for sent in [signal.SIGINT] * 2 if hurried else [signal.SIGTERM]:
                    server.process.send_signal(sent)
                    time.sleep(0.3)
                got = [answer.result() for answer in answers]
            assert sending.recv(65_536).startswith(b"HTTP/1.1 503")
        assert {one.status_code for one in got} == {503}
        assert all("stopping" in one.json()["detail"] for one in got)
        assert {one.headers["Content-Type"] for one in got} == {"application/problem+json"}
        assert time.monotonic() - begun < 5  # the model takes 6 s
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log.read_text()


def _wait_for_queue(server: Server, images: int) -> None:
    for _ in range(400):
        if f"bcd_queue_images {images}.0" in httpx.get(f"{server.url}/metrics").text:
            return
        time.sleep(0.02)
    pytest.fail(f"{images} images are never in the queue")


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        cfg = serve_config(tmp_path, f"port={other.getsockname()[1]}")
        with pytest.raises(BcdError, match="in use by another program"):
            serve(cfg)


def test_records_that_cannot_be_opened_end_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "load_engine", lambda cfg: Engine(StubModel(), IDENTITY, cfg.limits))
    (tmp_path / "records.sqlite").write_bytes(b"no database" * 1000)
    before = set(threading.enumerate())
    with pytest.raises(BcdError, match=r"records\.sqlite"):
        serve(serve_config(tmp_path))
    assert not {thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()}


def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("none")
    missing = tmp_path / "none.pem"
    for file, said in ((missing, "cannot be read"), (broken, "has no certificate in PEM")):
        with pytest.raises(ConfigError, match=rf"tls\.certificate=.*{said}"):
            serve(serve_config(tmp_path, f"tls.certificate={file}", f"tls.key={broken}"))


def test_an_address_of_another_machine_is_one_line(tmp_path: Path) -> None:
    cfg = serve_config(tmp_path, "host=203.0.113.1", "proxy.trusted=[127.0.0.1]")
    with pytest.raises(BcdError, match=r"host=203\.0\.113\.1"):
        serve(cfg)
