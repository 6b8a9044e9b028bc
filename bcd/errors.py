"""The one exception that a user sees as a single line instead of a traceback."""


class BcdError(Exception):
    """Something was asked that cannot be done.

    The message is one line: what is wrong, where, and the option or command that mends it.

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
