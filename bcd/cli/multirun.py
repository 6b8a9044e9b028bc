"""What follows the jobs of a multirun, in Hydra's callbacks."""

from __future__ import annotations

from collections.abc import Callable

from bcd.cli.app import OUTCOME, tell, unforeseen
from bcd.errors import BcdError


def finish(work: Callable[[], int], what: str) -> None:
    """Does what follows the jobs of a multirun, and records its status.

    Hydra would turn exceptions of a callback into warnings, so errors are printed here.

    Args:
        work: Returns an exit status.
        what: In front of the line for an unexpected exception.
    """
    try:
        OUTCOME.add(work())
    except BcdError as error:
        tell(str(error))
        OUTCOME.add(error.status)
    except Exception as error:
        tell(f"{what}: {unforeseen(error)}")
        OUTCOME.add(1)
