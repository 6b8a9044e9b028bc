"""Schema of `bcd serve`; fast to import."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from operator import attrgetter
from typing import Any

from bcd.config.interop import BOUNDS as INTEROP_BOUNDS
from bcd.config.interop import DicomNodeConfig, FhirConfig, JobsConfig, ScannerConfig
from bcd.config.sites import read_sites
from bcd.config.values import one_of, within
from bcd.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")

# Smallest and largest values; beyond them the server would refuse everything, or never end a wait,
# and alarms would mean nothing.
BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "limits.queue": (1, 100_000),
    "limits.seconds": (0.1, 3600),
    "limits.image_mb": (0.01, 1024),
    "limits.request_mb": (0.01, 100_000),
    "limits.memory_mb": (0.02, 1_000_000),
    "limits.images": (1, 10_000),
    "limits.case_images": (1, 100_000),
    "limits.requests_per_minute": (1, 1_000_000_000),
    "limits.logins_per_minute": (1, 1_000_000),
    "limits.stop_seconds": (0, 3600),
    "images.days": (0.01, 36_500),
    "images.memory_mb": (0, 1_000_000),
    "cases.signatures": (1, 2),
    "session.hours": (0.01, 8760),
    "session.idle_minutes": (0.1, 525_600),
    "monitoring.window": (50, 100_000),
    "monitoring.false_alarms": (0.0001, 0.2),
    **INTEROP_BOUNDS,
}


@dataclass
class TlsConfig:
    """Encryption of connections."""

    certificate: str | None
    key: str | None


@dataclass
class ProxyConfig:
    """Reverse proxies in front of the server."""

    trusted: list[str]
    user_header: str | None
    roles_header: str | None
    site_header: str | None


@dataclass
class LimitsConfig:
    """What requests may ask for."""

    queue: int
    seconds: float
    image_mb: float
    images: int
    request_mb: float
    memory_mb: float
    case_images: int
    requests_per_minute: int
    logins_per_minute: int
    stop_seconds: float


@dataclass
class ImagesConfig:
    """What becomes of uploaded images."""

    keep: bool
    key_file: str | None
    days: float
    memory_mb: float


@dataclass
class CasesConfig:
    """Rules for cases."""

    signatures: int


@dataclass
class SessionConfig:
    """How long users stay logged in."""

    hours: float
    idle_minutes: float


@dataclass
class MonitoringConfig:
    """Alarms about referral and drift."""

    window: int
    false_alarms: float


@dataclass
class LogConfig:
    """What is logged."""

    format: str
    level: str


@dataclass
class ServeConfig:
    """The configuration of `bcd serve`."""

    model: str | None
    sha256: str | None
    verify: str | None
    name: str | None
    device: str
    host: str
    port: int
    url: str | None
    folder: str
    records: str | None
    site: str
    sites: dict[str, Any]
    watch: str | None
    scanner: ScannerConfig
    dicom: DicomNodeConfig
    fhir: FhirConfig
    jobs: JobsConfig
    tls: TlsConfig
    proxy: ProxyConfig
    limits: LimitsConfig
    images: ImagesConfig
    cases: CasesConfig
    session: SessionConfig
    monitoring: MonitoringConfig
    log: LogConfig

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        for key, (low, high) in BOUNDS.items():
            if (value := attrgetter(key)(self)) is not None:
                within(key, value, low, high)
        one_of("log.format", self.log.format, ("console", "json"))
        one_of("log.level", self.log.level, ("debug", "info", "warning", "error"))
        self._check_sizes()
        self._check_proxy()
        self.fhir.check(self.url)
        self.dicom.check()
        read_sites(self)
        if (self.tls.certificate is None) != (self.tls.key is None):
            raise ConfigError("tls: give both tls.certificate and tls.key")
        if self.host not in LOOPBACK and self.tls.certificate is None and not self.proxy.trusted:
            raise ConfigError(
                f"host={self.host}: passwords would be sent unencrypted: give tls.certificate and "
                "tls.key, or proxy.trusted=[<address of the reverse proxy>]"
            )

    def _check_sizes(self) -> None:
        limits = self.limits
        if limits.request_mb < limits.image_mb:
            raise ConfigError(
                f"limits.request_mb={limits.request_mb:g}: must be at least limits.image_mb "
                f"({limits.image_mb:g})"
            )
        if limits.memory_mb < 2 * limits.request_mb:
            raise ConfigError(
                f"limits.memory_mb={limits.memory_mb:g}: must be at least twice limits.request_mb "
                f"({limits.request_mb:g})"
            )

    def _check_proxy(self) -> None:
        for entry in self.proxy.trusted:
            try:
                ip_network(entry, strict=False)
            except ValueError:
                raise ConfigError(
                    f"proxy.trusted={entry}: must be an address or a network, such as 10.0.0.0/8"
                ) from None
        if self.proxy.user_header is not None and not self.proxy.trusted:
            raise ConfigError(
                "proxy.user_header: nobody is believed without "
                "proxy.trusted=[<address of the proxy>]"
            )
        if self.proxy.roles_header is not None and self.proxy.user_header is None:
            raise ConfigError("proxy.roles_header: needs proxy.user_header")
        if self.proxy.site_header is not None and self.proxy.user_header is None:
            raise ConfigError("proxy.site_header: needs proxy.user_header")
        if self.sites and self.proxy.roles_header is not None and self.proxy.site_header is None:
            raise ConfigError(
                "proxy.roles_header: with sites, users who are recorded only at the proxy would "
                "see the cases of all: give proxy.site_header=<header with the user's site>"
            )
