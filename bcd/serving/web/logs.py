"""What the server logs, and how."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TextIO

import structlog

from bcd.config.serve import LogConfig


def configure_logs(cfg: LogConfig) -> None:
    """Logs to stderr, as lines for a console or as JSON.

    Libraries that read requests log nothing.
    """
    # Their messages may quote requests: paths, bytes of a form, an exception's text.
    for name in ("python_multipart", "uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.getLogger().setLevel(logging.WARNING)  # Hydra prints all that libraries log
    level: int = getattr(logging, cfg.level.upper())
    # A library's formatters may show local variables: images, passwords, remarks. These do not.
    rendering: list[structlog.typing.Processor]
    if cfg.format == "json":
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        rendering = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Only what `print` needs.
        logger_factory=structlog.PrintLoggerFactory(_Lossy(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


class _Lossy:
    """A stream that loses what cannot be written, such as on a full disk.

    Whoever logs an error while the disk is full would fail by that.

    Args:
        stream: It writes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, if that is possible."""
        with suppress(OSError, ValueError):  # ValueError: closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()
