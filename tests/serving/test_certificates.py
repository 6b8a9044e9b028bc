"""Certificates and keys that cannot be used end the start in one line; nobody is asked to type."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bcd.config.serve import ServeConfig
from bcd.errors import ConfigError
from bcd.serving import certificates
from bcd.serving.certificates import Pem, server_context
from bcd.serving.intake.start import open_intake
from tests.helpers.certificates import Authority, pem_of
from tests.serving.making import serve_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files, good ones and others."""
    made = tmp_path_factory.mktemp("files")
    authority = Authority(made, "authority")
    for name in ("own", "other"):
        authority.issue(name)
    key = serialization.load_pem_private_key((made / "own.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    (made / "phrase.key").write_bytes(pem_of(key, b"a pass phrase"))
    (made / "empty.pem").touch()
    for name in ("own.pem", "own.key"):
        lines = (made / name).read_text().splitlines()
        (made / f"cut.{name}").write_text("\n".join(lines[:3]))
    authority.issue("old", days=(-9, -2))
    authority.issue("early", days=(2, 9))
    return made


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> ServeConfig:
    """Of a server with a node."""
    return serve_config(tmp_path_factory.mktemp("serve"), "dicom.port=0")


@pytest.mark.parametrize(
    ("certificate", "key", "ca", "said"),
    [
        ("none.pem", "own.key", None, r"^dicom\.tls_cert=.*none\.pem: cannot be read: No such"),
        ("own.pem", "none.key", None, r"^dicom\.tls_key=.*none\.key: cannot be read: No such"),
        ("own.pem", "other.key", None, r"^dicom\.tls_key=.*is not the key of dicom\.tls_cert="),
        ("own.pem", "phrase.key", None, r"^dicom\.tls_key=.*has a pass phrase.*without one"),
        ("own.key", "own.pem", None, r"^dicom\.tls_cert=.*own\.key: has no certificate in PEM$"),
        ("own.pem", "own.pem", None, r"^dicom\.tls_key=.*own\.pem: has no private key in PEM$"),
        ("cut.own.pem", "own.key", None, r"^dicom\.tls_cert=[^:]*: cannot be used: is damaged"),
        ("own.pem", "cut.own.key", None, r"^dicom\.tls_key=[^:]*: cannot be used: is damaged"),
        ("old.pem", "old.key", None, r"^dicom\.tls_cert=.*expired at .* UTC: give one that is"),
        ("early.pem", "early.key", None, r"^dicom\.tls_cert=.*not valid before .* UTC: give"),
        ("own.pem", "own.key", "none.pem", r"^dicom\.tls_ca=.*none\.pem: cannot be read"),
        ("own.pem", "own.key", "empty.pem", r"^dicom\.tls_ca=.*empty\.pem: has no certificate"),
        ("own.pem", "own.key", "cut.own.pem", r"^dicom\.tls_ca=[^:]*: cannot be used: is damaged"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    folder: Path, cfg: ServeConfig, certificate: str, key: str, ca: str | None, said: str
) -> None:
    files = {"tls_cert": certificate, "tls_key": key, **({} if ca is None else {"tls_ca": ca})}
    given: dict[str, Any] = {name: str(folder / file) for name, file in files.items()}
    with pytest.raises(ConfigError, match=said) as caught:
        open_intake(replace(cfg, dicom=replace(cfg.dicom, **given)))
    assert "\n" not in str(caught.value)


def test_an_authority_that_has_expired_is_warned_of(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Pem("cert", str(folder / "own.pem")), Pem("key", str(folder / "own.key"))
    warned: list[dict[str, str]] = []
    told = SimpleNamespace(warning=lambda _, **facts: warned.append(facts))
    monkeypatch.setattr(certificates, "log", told)
    old, now = Authority(tmp_path, "old", (-9, -2)).file, Authority(tmp_path, "now").file
    both = tmp_path / "both.pem"
    both.write_bytes(now.read_bytes() + old.read_bytes())
    for file in (now, both):
        assert warned == []
        server_context(*own, Pem("ca", str(file)))
    [line] = warned
    assert line["file"] == f"ca={both}" and "expired at" in line["problem"]


def test_keys_that_need_others(cfg: ServeConfig) -> None:
    halves: list[dict[str, Any]] = [{"tls_cert": "a"}, {"tls_key": "a"}]
    for one in halves:
        with pytest.raises(ConfigError, match=r"both dicom\.tls_cert and dicom\.tls_key"):
            replace(cfg, dicom=replace(cfg.dicom, **one))
    with pytest.raises(ConfigError, match=r"dicom\.tls_ca: needs dicom\.tls_cert"):
        replace(cfg, dicom=replace(cfg.dicom, tls_ca="a"))


def test_a_server_is_modern_and_trusts_only_who_is_named(folder: Path) -> None:
    own = Pem("cert", str(folder / "own.pem")), Pem("key", str(folder / "own.key"))
    anybody, some = server_context(*own), server_context(*own, Pem("ca", str(folder / "own.pem")))
    assert anybody.verify_mode == ssl.CERT_NONE and some.verify_mode == ssl.CERT_REQUIRED
    assert some.cert_store_stats()["x509"] == 1
    suites = [each["name"] for each in some.get_ciphers() if each["protocol"] == "TLSv1.2"]
    assert suites and all("ECDHE" in each and "GCM" in each for each in suites)
    assert {each.minimum_version for each in (anybody, some)} == {ssl.TLSVersion.TLSv1_2}
