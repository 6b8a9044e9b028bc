"""Which records the commands of `bcd serve` are about, and who uses them."""

from __future__ import annotations

import argparse
import getpass
import os
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports
from bcd.errors import BcdError

if TYPE_CHECKING:
    from bcd.serving.errors import RequestError

_FOLDER = "outputs/serve"


def add_place(command: argparse.ArgumentParser) -> None:
    """Adds the options that `records_url` reads."""
    command.add_argument("--records", metavar="URL", help="database; default: BCD_RECORDS")
    command.add_argument("--folder", help=f"of SQLite's records; default: {_FOLDER}")


def records_url(asked: argparse.Namespace) -> str:
    """The database that --records, --folder or the environment name."""
    with quick_imports():  # not before, as help needs none of it
        from bcd.serving.records.database import database_url
    records = asked.records
    if records is None and asked.folder is None:
        records = os.environ.get("BCD_RECORDS") or None
    return database_url(records, asked.folder or _FOLDER)


def user_here() -> str:
    """Who is at the command line, as records name it."""
    return f"{getpass.getuser()} (command line)"


def command_error(error: RequestError) -> BcdError:
    """The error of a command for one of a request, with what the database says."""
    cause = getattr(error.__cause__, "orig", error.__cause__)
    reason = str(cause).partition("\n")[0] if cause else ""
    return BcdError(f"{error.detail} ({reason})" if reason else error.detail)


def utc_minute(seconds: float) -> str:
    """A time, in seconds since 1970, to the minute."""
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M UTC}"
