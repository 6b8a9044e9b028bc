"""Schema of the keys of `bcd serve` that connect it to other systems; fast to import."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass
class FhirConfig:
    """Where reports are posted."""

    url: str | None
    token_file: str | None
    delay_seconds: float
    timeout_seconds: float


@dataclass
class JobsConfig:
    """Images that wait in the database for one of the servers."""

    lease_seconds: float
    attempts: int
    poll_seconds: float
    hours: float
