"""The exceptions that are reported as a single line instead of a traceback."""

from __future__ import annotations

import errno
import traceback


class BcdError(Exception):
    """An expected error.

    Args:
        message: One line: what is wrong, where, and the option or command that fixes it.
        status: The exit status: 1 for an error in general, 2 for wrong usage.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class ConfigError(BcdError):
    """A wrong key, a wrong type or a wrong value in the configuration (exit status 2)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=2)


# Disk errors that cannot be ruled out beforehand: full, over quota, or not writable.
_NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def foreseen(error: BaseException) -> BcdError | None:
    """Returns the expected error behind an exception: a `BcdError`, a disk or an import error.

    Args:
        error: Any exception; its chain of causes is searched as well.

    Returns:
        None if there is none.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BcdError):
            return seen
        if isinstance(seen, OSError) and (
            seen.errno in _NO_ROOM | _REFUSED or _no_folder_possible(seen)
        ):
            return _disk_error(seen)
        if isinstance(seen, ModuleNotFoundError) and not f"{seen.name or 'bcd'}.".startswith(
            "bcd."
        ):
            return BcdError(f"{seen.name} is not installed, which this needs: pip install bcd")
        seen = seen.__cause__
    return None


def _no_folder_possible(error: OSError) -> bool:
    """Whether a folder cannot be made, as in /proc, which says that there is no such file."""
    frames = traceback.extract_tb(error.__traceback__)
    making = bool(frames) and frames[-1].name in ("mkdir", "makedirs")
    return making and error.errno in (errno.ENOENT, errno.ENOTDIR)


def _disk_error(error: OSError) -> BcdError:
    where = error.filename2 or error.filename or "a file of this run"
    if error.errno in _NO_ROOM:
        fix = "free some space, or choose another folder (hydra.run.dir=, BCD_CACHE)"
    elif _no_folder_possible(error):
        return BcdError(
            f"{where}: no folder can be made there: choose another one (hydra.run.dir=)"
        )
    else:
        fix = "change the permissions, or choose another folder"
    return BcdError(f"{where}: {error.strerror}: {fix}")
