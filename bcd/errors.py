"""The one exception that a user sees as a single line instead of a traceback."""

from __future__ import annotations

import errno


class BcdError(Exception):
    """Something was asked that cannot be done.

    The message is one line: what is wrong, where, and the option or command that fixes it.

    Args:
        message: That line.
        status: Exit status of the program: 1 cannot be done, 2 wrong use.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class ConfigError(BcdError):
    """A wrong key, a wrong type or a wrong value in the configuration (exit status 2)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=2)


# Errors of the disk that no program can rule out beforehand: full, over a quota, not to be written.
_NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def foreseen(error: BaseException) -> BcdError | None:
    """The error that a person is told of: a `BcdError` behind this one, or a trouble of the disk.

    Args:
        error: Any exception; what it was raised from is looked through as well.

    Returns:
        None where it is none of these.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BcdError):
            return seen
        if isinstance(seen, OSError) and seen.errno in _NO_ROOM | _REFUSED:
            return _disk_error(seen)
        seen = seen.__cause__
    return None


def _disk_error(error: OSError) -> BcdError:
    where = error.filename2 or error.filename or "a file of this run"
    if error.errno in _NO_ROOM:
        fix = "make room there, or choose another folder (hydra.run.dir=, BCD_CACHE)"
    else:
        fix = "allow it, or choose another folder"
    return BcdError(f"{where}: {error.strerror}: {fix}")
