"""Certificates for TLS: of this server, and of the authorities that vouch for others.

Certificates are always verified; nothing here can switch that off.
"""

from __future__ import annotations

import re
import ssl
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from bcd.errors import ConfigError

if TYPE_CHECKING:
    from bcd.config.interop import FhirConfig

_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")

log = structlog.get_logger("bcd.serving.certificates")


class Pem(NamedTuple):
    """A file of the configuration.

    Attributes:
        key: Of the configuration.
        file: As given there.
    """

    key: str
    file: str

    def __str__(self) -> str:
        return f"{self.key}={self.file}"


def server_context(certificate: Pem, key: Pem, authorities: Pem | None = None) -> ssl.SSLContext:
    """TLS 1.2 or 1.3 of a server, as in BCP 195 (RFC 9325).

    Args:
        certificate: Of the server, followed by those between it and its authority.
        key: Its private key.
        authorities: Each client needs a certificate of one of them; None if it needs none.

    Raises:
        ConfigError: A file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM")  # of TLS 1.2, as BCP 195 recommends
    load_certificate(context, certificate, key)
    if authorities is not None:
        _load_authorities(context, authorities)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def fhir_context(cfg: FhirConfig) -> ssl.SSLContext:
    """TLS of a client of the FHIR server; needs httpx.

    Raises:
        ConfigError: A file cannot be used.
    """
    import httpx

    if cfg.ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which trusts nobody yet
        _load_authorities(context, Pem("fhir.ca", cfg.ca))
    else:
        try:
            context = httpx.create_ssl_context()
        except OSError as error:
            raise ConfigError(
                f"SSL_CERT_FILE, SSL_CERT_DIR: cannot be used: {_said(error)}: give fhir.ca=<file>"
            ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cfg.cert is not None and cfg.key is not None:
        load_certificate(context, Pem("fhir.cert", cfg.cert), Pem("fhir.key", cfg.key))
    return context


def load_certificate(context: ssl.SSLContext, certificate: Pem, key: Pem) -> None:
    """Loads a certificate with its key.

    Raises:
        ConfigError: A file cannot be used, the certificate is not valid at present, or the key has
            a pass phrase or is of another certificate.
    """
    _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate)
    if not _KEY.search(_read(key)):
        raise ConfigError(f"{key}: has no private key in PEM")
    if problems := _not_valid(certificate, 1):  # of those that follow it, its clients may have some
        raise ConfigError(f"{certificate}: {problems[0]}: give one that is valid")
    asked: list[bool] = []

    def no_pass_phrase() -> str:  # without it OpenSSL would ask at the terminal
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(certificate.file, key.file, no_pass_phrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        if asked:
            raise ConfigError(
                f"{key}: has a pass phrase, which nobody can type when the server starts: give a "
                "key without one, in a file that only the server can read"
            ) from None
        if getattr(error, "reason", None) in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise ConfigError(f"{key}: is not the key of {certificate}") from None
        # Without a reason something cannot be read, and the certificate was read just now.
        which = f"{certificate}, {key}" if getattr(error, "reason", None) else key
        raise ConfigError(f"{which}: cannot be used: {_said(error)}") from None


def kind_of(error: BaseException) -> str:
    """The class of an error and, if TLS is its cause, OpenSSL's name for it.

    If a certificate is refused, it has OpenSSL's words for why. Nothing of what was sent is in it.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    reason = cause and cause.reason
    if isinstance(cause, ssl.SSLCertVerificationError):  # without the host, if that is why
        reason = f"{reason} ({cause.verify_message.partition(',')[0]})"
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def _load_authorities(context: ssl.SSLContext, pem: Pem) -> None:
    _load_certificates(context, pem)
    for problem in _not_valid(pem):
        log.warning("certificate_not_valid", file=str(pem), problem=problem)
    # Also one that another has issued, such as that of a hospital's devices, is the end of a chain.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _load_certificates(context: ssl.SSLContext, pem: Pem) -> None:
    """Has a context trust the certificates in a file."""
    _read(pem)
    try:
        context.load_verify_locations(pem.file)
    except OSError as error:
        if getattr(error, "reason", None) == "NO_CERTIFICATE_OR_CRL_FOUND":
            raise ConfigError(f"{pem}: has no certificate in PEM") from None
        raise ConfigError(f"{pem}: cannot be used: {_said(error)}") from None
    if context.cert_store_stats()["x509"] == 0:  # revocations only
        raise ConfigError(f"{pem}: has no certificate in PEM")


def _not_valid(pem: Pem, most: int | None = None) -> list[str]:
    """What is wrong at present with the dates of the first certificates in a file, or of all."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(_read(pem))[:most]
    except ValueError:  # one that OpenSSL takes nevertheless
        return []
    now, problems = datetime.now(timezone.utc), []
    for each in found:
        first, last = each.not_valid_before_utc, each.not_valid_after_utc
        if now < first:
            problems.append(
                f"has a certificate that is not valid before {first:%Y-%m-%d %H:%M} UTC"
            )
        elif now > last:
            problems.append(f"has a certificate that expired at {last:%Y-%m-%d %H:%M} UTC")
    return problems


def _read(pem: Pem) -> bytes:
    try:
        return Path(pem.file).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{pem}: cannot be read: {_said(error)}") from None


def _said(error: Exception) -> str:
    """What OpenSSL or the system says, without places in its source."""
    said = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    if isinstance(error, ssl.SSLError) and not error.reason:
        return "is damaged, or cut off"  # OpenSSL only names its library
    return str(said)
