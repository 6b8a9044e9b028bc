"""Rows of the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WAITING, SENT, FAILED = "waiting", "sent", "failed"


@dataclass(frozen=True)
class Claim:
    """A case that one sender posts.

    Attributes:
        case_id: Of the case.
        version: To be delivered.
        attempts: Including this one, since the last delivery or the last time that people asked.
        asked: How often people have asked for it to be posted whatever the server has.
        sent: Version that was delivered last; 0 for none.
    """

    case_id: str
    version: int
    attempts: int
    asked: int = 0
    sent: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a case that did not fail.

    Attributes:
        version: Of the case.
        server: Address of the FHIR server.
        place: Where the report is on it; empty if nothing was posted, as nothing had to be.
        contents: Whether the server has contents of the case now.
    """

    version: int
    server: str
    place: str = ""
    contents: bool = True


@dataclass(frozen=True)
class Entry:
    """A row of the table, for lists.

    Attributes:
        case_id: Of the case.
        version: To be delivered.
        sent: Delivered last; None for none.
        state: `WAITING` or `FAILED`.
        attempts: Since the last delivery or the last time that people asked.
        due: When it is tried next, in seconds since 1970.
        error: Of the last attempt; empty for none.
        not_erased_on: FHIR servers that have contents of it, although it is erased here.
    """

    case_id: str
    version: int
    sent: int | None
    state: str
    attempts: int
    due: float
    error: str
    not_erased_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counts:
    """Numbers of cases in the outbox.

    Attributes:
        waiting: To be posted.
        failed: That the FHIR server does not take.
        not_erased: Erased here, but not (yet) on a FHIR server; may wait or have failed, too.
        not_erased_on: How many of these each FHIR server has, by its address.
    """

    waiting: int
    failed: int
    not_erased: int
    not_erased_on: Mapping[str, int]
