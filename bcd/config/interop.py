"""Schema of the keys of `bcd serve` that connect it to other systems; fast to import."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from bcd.errors import ConfigError

# Smallest and largest values of the keys here.
BOUNDS: dict[str, tuple[float, float]] = {
    "scanner.stable_seconds": (0.1, 3600),
    "dicom.port": (0, 65535),
    "fhir.delay_seconds": (0, 3600),
    "fhir.timeout_seconds": (0.1, 600),
    "jobs.lease_seconds": (1, 3600),
    "jobs.attempts": (1, 100),
    "jobs.poll_seconds": (0.05, 60),
    "jobs.hours": (0.001, 8760),
}


@dataclass
class ScannerConfig:
    """Folders that scanners write to."""

    stable_seconds: float


@dataclass
class DicomNodeConfig:
    """DICOM: what is kept of it, and the node that takes images."""

    keep: list[str]
    port: int | None
    host: str
    ae_title: str
    allow: list[str]
    tls_cert: str | None
    tls_key: str | None
    tls_ca: str | None

    def check(self) -> None:
        """Checks that the keys of TLS belong together.

        Raises:
            ConfigError: They do not.
        """
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("dicom: give both dicom.tls_cert and dicom.tls_key")
        if self.tls_ca is not None and self.tls_cert is None:
            raise ConfigError("dicom.tls_ca: needs dicom.tls_cert and dicom.tls_key")


@dataclass
class FhirConfig:
    """Where reports are posted."""

    url: str | None
    token_file: str | None
    ca: str | None
    cert: str | None
    key: str | None
    names: bool
    delay_seconds: float
    timeout_seconds: float

    def check(self, base: str | None) -> None:
        """Checks the address, and that certificates can be used with it.

        Args:
            base: `url` of the server, of which identifiers are made.

        Raises:
            ConfigError: It is no address, reports would be sent unencrypted, certificates would not
                be used, or there is no base.
        """
        if self.url is None:
            return
        try:
            parts = urlsplit(self.url)
            host, user, _ = parts.hostname, parts.username, parts.port
        except ValueError:
            host, user = None, None
        if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise ConfigError("fhir.url: must be an address such as https://fhir.example.org/r4")
        if user is not None:
            raise ConfigError("fhir.url: must not have a user or password: give fhir.token_file")
        if parts.scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigError(
                "fhir.url: reports would be sent unencrypted: give an https address, or one of "
                "this machine (http://127.0.0.1:…)"
            )
        if (self.cert is None) != (self.key is None):
            raise ConfigError("fhir: give both fhir.cert and fhir.key")
        if parts.scheme == "http" and (self.ca, self.cert) != (None, None):
            raise ConfigError(
                "fhir.url: has no encryption for fhir.ca or fhir.cert: give an https address"
            )
        if base is None:
            raise ConfigError(
                "fhir.url: identifiers of reports are made of this server's address: give "
                "url=https://<its address>, and do not change it later"
            )


@dataclass
class JobsConfig:
    """Images that wait in the database for one of the servers."""

    lease_seconds: float
    attempts: int
    poll_seconds: float
    hours: float
