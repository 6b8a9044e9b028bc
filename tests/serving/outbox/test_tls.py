"""Reports over https: whose certificate is believed, and by which this server is known."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcd.errors import ConfigError
from bcd.serving.certificates import Pem, server_context
from bcd.serving.outbox.sender import check_outbox
from tests.helpers.certificates import Authority, Issued
from tests.serving.making import serve_config
from tests.serving.outbox.fhir_server import fhir_server
from tests.serving.outbox.making import BASE, new_case, posting, send


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of the FHIR server and of its clients."""
    return Authority(tmp_path_factory.mktemp("hospital"), "hospital")


def of_server(own: Issued, authorities: Path | None = None) -> ssl.SSLContext:
    """TLS of the FHIR server."""
    ca = None if authorities is None else Pem("ca", str(authorities))
    return server_context(Pem("cert", str(own.certificate)), Pem("key", str(own.key)), ca)


def test_a_hospitals_own_authority_is_believed(tmp_path: Path, hospital: Authority) -> None:
    with fhir_server(of_server(hospital.issue("fhir"))) as fhir:
        for name, keys in {"ca": [f"fhir.ca={hospital.file}"], "none": []}.items():
            with posting(tmp_path / name, fhir.url, *keys) as post:
                sender = post.sender()
                new_case(post, 1)
                send(post)
                entries = sender.outbox.entries()
                assert bool(entries) == (name == "none")
        assert len(fhir.now("DiagnosticReport")) == 1  # of the first
    [entry] = entries
    assert entry.error.endswith("unable to get local issuer certificate))")


def test_another_name_than_the_certificates_is_not(tmp_path: Path, hospital: Authority) -> None:
    with fhir_server(of_server(hospital.issue("fhir"))) as fhir:
        url = fhir.url.replace("127.0.0.1", "localhost")
        with posting(tmp_path, url, f"fhir.ca={hospital.file}") as post:
            sender = post.sender()
            new_case(post, 1)
            send(post)
            assert fhir.requests == []
            [entry] = sender.outbox.entries()
    assert "CERTIFICATE_VERIFY_FAILED (Hostname mismatch)" in entry.error


def test_a_server_that_asks_for_a_certificate_gets_one(tmp_path: Path, hospital: Authority) -> None:
    own = hospital.issue("bcd")
    known = [f"fhir.cert={own.certificate}", f"fhir.key={own.key}"]
    with fhir_server(of_server(hospital.issue("fhir"), hospital.file)) as fhir:
        for name, keys in {"known": known, "unknown": []}.items():
            with posting(tmp_path / name, fhir.url, f"fhir.ca={hospital.file}", *keys) as post:
                sender = post.sender()
                new_case(post, 1)
                send(post)
                assert bool(sender.outbox.entries()) == (name == "unknown")
        assert len(fhir.now("DiagnosticReport")) == 1


def test_what_is_refused_at_start(
    tmp_path: Path, hospital: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = hospital.issue("bcd")
    address = (f"url={BASE}", "fhir.url=https://fhir.example.org")
    cfg = serve_config(tmp_path, *address).fhir
    cert, missing = str(own.certificate), str(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match=r"both fhir\.cert and fhir\.key"):
        replace(cfg, cert=cert).check(BASE)
    with pytest.raises(ConfigError, match=r"fhir\.url: has no encryption"):
        replace(cfg, url="http://127.0.0.1:1", ca=cert).check(BASE)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"ca": missing}, r"^fhir\.ca=.*: cannot be read"),
        ({"ca": str(own.key)}, r"^fhir\.ca=.*: has no certificate"),
        ({"cert": cert, "key": str(hospital.issue("other").key)}, r"^fhir\.key=.*is not the key"),
    ]
    for keys, said in refused:
        with pytest.raises(ConfigError, match=said):
            check_outbox(replace(cfg, **keys))
    monkeypatch.setenv("SSL_CERT_FILE", missing)
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        check_outbox(cfg)
