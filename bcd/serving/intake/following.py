"""What is known of a file between its arrival and its move."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from bcd.serving.errors import RequestError
from bcd.serving.intake.files import Found

_BACKOFF = (1.0, 60.0)  # seconds, the first and the longest, after an error that may pass
_DOUBLINGS = 8


@dataclass
class Followed:
    """A file that is followed until it is moved.

    Attributes:
        found: As it was last found.
        since: When it was first found so.
        due: When it is looked at next.
        tries: To decode it.
        errors: One after the other, that may pass.
        case_id: That its images wait in; empty before.
        elsewhere: Whether another server has to answer them, with the model of that case.
        uploads: Of its images.
        into: `DONE` or `FAILED`, once that is decided; else empty.
        why: It is failed.
        problem: Why it cannot be read or moved at present; empty if it can.
    """

    found: Found
    since: float
    due: float
    tries: int = 0
    errors: int = 0
    case_id: str = ""
    elsewhere: bool = False
    uploads: tuple[str, ...] = ()
    into: str = ""
    why: str = ""
    problem: str = ""

    def later(self, now: float, problem: str) -> None:
        """Looks at it again, later each time."""
        first, longest = _BACKOFF
        self.due = now + min(longest, first * 2 ** min(self.errors, _DOUBLINGS))
        self.errors += 1
        self.problem = problem

    def fine(self) -> None:
        """Notes that there is no problem any more."""
        self.errors, self.problem = 0, ""


def brief(error: Exception) -> str:
    """An error in a few words, without the path that Python adds to it."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return error.detail if isinstance(error, RequestError) else type(error).__name__
