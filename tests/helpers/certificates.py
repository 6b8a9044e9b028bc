"""Authorities, and certificates that they issue for 127.0.0.1."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key.

    Attributes:
        certificate: PEM file.
        key: PEM file, without a pass phrase.
    """

    certificate: Path
    key: Path


class Authority:
    """An authority of its own.

    Args:
        folder: Of the files.
        name: Of the authority.
        days: From when until when its own certificate is valid, from now.
    """

    def __init__(self, folder: Path, name: str, days: tuple[int, int] = (-1, 1)) -> None:
        self._folder, self._name = folder, _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(self._name, self._key, days).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.file = self._write(f"{name}.pem", made)

    def issue(
        self,
        name: str,
        days: tuple[int, int] = (-1, 1),
        usage: x509.ObjectIdentifier | None = None,
    ) -> Issued:
        """Issues a certificate.

        Args:
            name: Of its files and its subject.
            days: From when until when it is valid, from now.
            usage: The only one of its key; None for servers and clients.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = self._builder(_name(name), key, days).add_extension(address, critical=False)
        if usage is not None:
            made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        file = self._folder / f"{name}.key"
        file.write_bytes(pem_of(key))
        return Issued(self._write(f"{name}.pem", made), file)

    def trusted(self, own: Issued | None = None) -> ssl.SSLContext:
        """TLS of a client that trusts this authority.

        Args:
            own: Certificate of the client; None for none.
        """
        context = ssl.create_default_context(cafile=str(self.file))
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return context

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, days: tuple[int, int]
    ) -> x509.CertificateBuilder:
        now, own = datetime.datetime.now(datetime.timezone.utc), self._key.public_key()
        return (
            x509.CertificateBuilder(self._name, name, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * _DAY)
            .not_valid_after(now + days[1] * _DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), False)
        )

    def _write(self, name: str, made: x509.CertificateBuilder) -> Path:
        file = self._folder / name
        signed = made.sign(self._key, hashes.SHA256())
        file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return file


def pem_of(key: ec.EllipticCurvePrivateKey, pass_phrase: bytes = b"") -> bytes:
    """A key as PEM, encrypted if there is a pass phrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if pass_phrase:
        encryption = serialization.BestAvailableEncryption(pass_phrase)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
