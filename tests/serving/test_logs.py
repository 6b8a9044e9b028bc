"""What a line of the log must not have."""

from __future__ import annotations

import errno
import io
import json
import sys

import pytest
import structlog

from bcd.config.serve import LogConfig
from bcd.serving.web.logs import configure_logs


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_is_logged_and_shows_no_values(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(remark: str) -> None:
        raise ValueError(len(remark))

    configure_logs(LogConfig(form, "info"))
    try:
        fails(" ".join(("typed", "by", "a person")))  # the line itself is shown
    except ValueError:
        structlog.get_logger().exception("it_failed")
    finally:
        structlog.reset_defaults()
    printed = capsys.readouterr().err
    assert "it_failed" in printed and "typed by" not in printed
    assert "ValueError: 17" in printed and "in fails" in printed
    if form == "json":
        assert "Traceback" in json.loads(printed)["exception"]


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_log_that_cannot_be_written_ends_nothing(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            tried.append(form)
            raise OSError(errno.ENOSPC, "full")

    tried: list[str] = []
    monkeypatch.setattr(sys, "stderr", Full())
    configure_logs(LogConfig(form, "info"))
    try:
        structlog.get_logger().warning("jobs_wait")
    finally:
        structlog.reset_defaults()
    assert tried
