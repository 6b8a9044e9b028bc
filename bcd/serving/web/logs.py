"""What the server logs, and how."""

from __future__ import annotations

import logging
import sys

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
    if cfg.format == "json":
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # Rich's, which is the default, shows local variables: images, passwords, remarks.
            exception_formatter=structlog.dev.plain_traceback,
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
