"""Rows of the outbox."""

from __future__ import annotations

from dataclasses import dataclass

WAITING, SENT, FAILED = "waiting", "sent", "failed"


@dataclass(frozen=True)
class Claim:
    """A case that one sender posts.

    Attributes:
        case_id: Of the case.
        attempts: Including this one, since the last delivery.
        servers: Addresses of FHIR servers that have contents of the case, as far as is known.
    """

    case_id: str
    attempts: int
    servers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a case that did not fail.

    Attributes:
        version: Of the case.
        server: Address of the FHIR server.
        place: Where the report is on it; empty if nothing was posted, as nothing had to be.
        servers: That have contents of the case now.
        left: What a person has to do, and is shown as a failure; empty for nothing.
    """

    version: int
    server: str
    place: str = ""
    servers: tuple[str, ...] = ()
    left: str = ""


@dataclass(frozen=True)
class Entry:
    """A row of the table, for lists.

    Attributes:
        case_id: Of the case.
        version: To be delivered.
        sent: Delivered last; None for none.
        state: `WAITING`, `SENT` or `FAILED`.
        attempts: Since the last delivery.
        due: When it is tried next, in seconds since 1970.
        error: Of the last attempt; empty for none.
    """

    case_id: str
    version: int
    sent: int | None
    state: str
    attempts: int
    due: float
    error: str
