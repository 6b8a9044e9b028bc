"""The DICOM node with TLS: who gets in, and that nobody can keep others out by saying nothing."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from bcd.serving.intake import connections
from bcd.serving.intake import start as intake
from bcd.serving.intake.start import open_intake
from bcd.serving.intake.storing import STORED
from tests.helpers.certificates import Authority
from tests.serving.intake.sending import association, made, send
from tests.serving.making import serve_config
from tests.serving.running import running


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of the node and of those that may send."""
    return Authority(tmp_path_factory.mktemp("hospital"), "hospital")


@pytest.fixture(scope="module")
def scanner(hospital: Authority) -> ssl.SSLContext:
    """TLS of a sender with a certificate."""
    return hospital.trusted(hospital.issue("scanner"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, hospital: Authority) -> Iterator[str]:
    """A node that requires certificates: its AE title, address and port."""
    own = hospital.issue("node")
    keys = [f"dicom.tls_cert={own.certificate}", f"dicom.tls_key={own.key}", "dicom.port=0"]
    keys += [f"dicom.tls_ca={hospital.file}", "dicom.allow=[SCANNER1]", "limits.stop_seconds=5"]
    with running(tmp_path_factory.mktemp("node"), *keys) as app:
        (line,) = app.intake.described()
        assert line.startswith("DICOM node (TLS): BCD@127.0.0.1:")
        yield line.rpartition(" ")[2]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Warnings about connections."""
    lines: list[dict[str, Any]] = []
    told = SimpleNamespace(warning=lambda _, **facts: lines.append(facts))
    monkeypatch.setattr(connections, "log", told)
    return lines


def connected(node: str) -> socket.socket:
    """A connection that says nothing yet."""
    host, _, port = node.partition("@")[2].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that other threads do."""
    last = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.01)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_sender_with_a_certificate_gets_in(
    hospital: Authority, node: str, version: ssl.TLSVersion
) -> None:
    tls = hospital.trusted(hospital.issue("scanner"))
    tls.minimum_version = tls.maximum_version = version
    with association(node, [], tls=tls) as echoed:
        assert echoed.send_c_echo().Status == STORED
    assert send(node, made(1), made(2), tls=tls) == [STORED, STORED]
    with association(node, [], sender="STRANGER", tls=tls) as stranger:
        assert stranger.is_rejected  # titles are still asked for


def test_nobody_else_does(
    tmp_path: Path, hospital: Authority, node: str, logged: list[dict[str, Any]]
) -> None:
    other = Authority(tmp_path, "other").issue("scanner")
    expired = hospital.issue("expired", days=(-9, -2))
    of_a_server = hospital.issue("web", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    reasons = {
        "PEER_DID_NOT_RETURN_A_CERTIFICATE": hospital.trusted(),
        "FAILED (unable to get local issuer certificate)": hospital.trusted(other),
        "FAILED (certificate has expired)": hospital.trusted(expired),
        "FAILED (unsuitable certificate purpose)": hospital.trusted(of_a_server),
        "": None,  # no TLS
    }
    for number, (reason, tls) in enumerate(reasons.items()):
        assert send(node, made(3), tls=tls) == [None], reason
        until(lambda wanted=number: len(logged) > wanted)  # type: ignore[misc]
    assert all(each["reason"].endswith(one) for each, one in zip(logged, reasons, strict=True))
    assert {(each["source"], each["error"]) for each in logged} == {("dicom", "tls")}


def test_clients_that_say_nothing_keep_nobody_out(
    node: str,
    scanner: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[dict[str, Any]],
) -> None:
    until(lambda: len(_associations()) == 0)
    monkeypatch.setattr(connections, "_MOST", 2)
    monkeypatch.setattr(connections, "_SHAKING", 3)
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(node)) for _ in range(6)]
        silent[-1].sendall(b"\x16\x03\x01")  # of a greeting, which never goes on
        for each in silent[:3]:  # the oldest
            assert each.recv(1) == b""
        until(lambda: [each["reason"] for each in logged] == ["crowded"])  # not once for each
        assert send(node, made(4), tls=scanner) == [STORED]
        assert silent[3].recv(1) == b""
    until(lambda: len(logged) == 1 + len(silent[4:]))
    assert "crowded" not in [each["reason"] for each in logged[1:]]


def test_connections_after_a_handshake_are_bounded(
    node: str, scanner: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: len(_associations()) == 0)
    monkeypatch.setattr(connections, "_MOST", 2)
    with ExitStack() as stack:

        def shaken() -> ssl.SSLSocket:
            connection = stack.enter_context(connected(node))
            return stack.enter_context(scanner.wrap_socket(connection, server_hostname="127.0.0.1"))

        for count in (1, 2):
            shaken()
            until(lambda wanted=count: len(_associations()) == wanted)  # type: ignore[misc]
        assert shaken().recv(1) == b""


def _associations() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if "AcceptorThread" in each.name]


def test_a_handshake_has_to_end_in_time(
    node: str, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(connections, "_HANDSHAKE", 0.2)
    with connected(node) as silent, connected(node) as slow:
        slow.sendall(b"\x16\x03\x01")
        assert silent.recv(1) == slow.recv(1) == b""
    assert [each["reason"] for each in logged] == ["TimeoutError"] * 2


def test_the_end_of_a_node_ends_handshakes(tmp_path: Path, hospital: Authority) -> None:
    own = hospital.issue("short")
    keys = [f"dicom.tls_cert={own.certificate}", f"dicom.tls_key={own.key}", "dicom.port=0"]
    with ExitStack() as stack:
        with running(tmp_path, *keys, "limits.stop_seconds=0") as app:
            node = app.intake.described()[0].rpartition(" ")[2]
            tls = hospital.trusted()
            with association(node, [], tls=tls) as echoed:  # without tls_ca nobody needs one
                assert echoed.send_c_echo().Status == STORED
            silent = stack.enter_context(connected(node))
            silent.settimeout(5)  # less than a handshake may take
        with suppress(ConnectionResetError):  # if it was not even accepted
            assert silent.recv(1) == b""


def test_a_node_that_others_reach_without_tls_is_warned_of(
    tmp_path: Path, hospital: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[dict[str, Any]] = []
    told = SimpleNamespace(warning=lambda event, **facts: warned.append({"event": event, **facts}))
    monkeypatch.setattr(intake, "log", told)
    cfg = serve_config(tmp_path, "dicom.port=0", "dicom.allow=[SCANNER1]")
    own = hospital.issue("warned")
    files: dict[str, Any] = {"tls_cert": str(own.certificate), "tls_key": str(own.key)}
    changes: dict[str, Any]
    for changes in ({}, {"host": "0.0.0.0", **files}, {"host": "0.0.0.0"}):
        with open_intake(replace(cfg, dicom=replace(cfg.dicom, **changes))):
            assert len(warned) == (changes == {"host": "0.0.0.0"})
    assert warned[0]["event"] == "dicom_unencrypted" and "dicom.tls_cert" in warned[0]["advice"]
