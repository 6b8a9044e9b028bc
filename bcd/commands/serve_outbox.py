"""Shows and changes what is posted to the FHIR server; it may run while a server does.

bcd serve outbox list
bcd serve outbox retry [CASE ...]
bcd serve outbox add CASE ... | --all

A running server posts what is changed here within a second or so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports
from bcd.commands.serve_place import add_place, command_error, records_url, utc_minute
from bcd.console import say
from bcd.errors import BcdError
from bcd.storage import csv_line

if TYPE_CHECKING:
    from bcd.serving.outbox.store import Outbox

_Run = Callable[["Outbox", argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bcd serve", description=__doc__.split("\n\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="outbox")
    outbox = kinds.add_parser("outbox", description=__doc__.split("\n\n")[0])
    commands = outbox.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, run: _Run, about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=f"{about.capitalize()}.")
        command.set_defaults(run=run)
        add_place(command)
        return command

    add("list", _list, "print cases that wait or failed, as CSV")
    command = add("retry", _retry, "try cases that wait or failed at once")
    command.add_argument("case", nargs="*", help="its id; default: all of them")
    command = add("add", _add, "post cases of before the outbox, or cases anew")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("case", nargs="*", default=[], help="its id")
    which.add_argument("--all", action="store_true", help="all cases that have images")
    return _run(parser.parse_args(arguments))


def _run(asked: argparse.Namespace) -> int:
    url = records_url(asked)
    with quick_imports():  # not before, as help needs none of it
        from bcd.serving.errors import RequestError
        from bcd.serving.outbox.store import Outbox
        from bcd.serving.records.backup import existing
        from bcd.serving.records.upgrade import prepare
    existing(url)
    engine = prepare(url)
    try:
        asked.run(Outbox(engine), asked)
    except RequestError as error:
        raise command_error(error) from error
    finally:
        engine.dispose()
    return 0


def _list(outbox: Outbox, _: argparse.Namespace) -> None:
    rows: list[list[object]] = [
        [
            each.case_id, each.state, str(each.version),
            "never" if each.sent is None else str(each.sent), str(each.attempts),
            utc_minute(each.due) if each.state == "waiting" else "", each.error,
        ]
        for each in outbox.entries()
    ]  # fmt: skip
    head: list[object] = ["case", "state", "version", "delivered", "attempts", "next", "last_error"]
    for row in [head, *rows]:
        print(csv_line(row), end="")  # noqa: T201
    counts = outbox.counts()
    say(f"waiting: {counts['waiting']}; failed: {counts['failed']}")


def _retry(outbox: Outbox, asked: argparse.Namespace) -> None:
    say(f"tried again at once: {outbox.retry(asked.case)}")


def _add(outbox: Outbox, asked: argparse.Namespace) -> None:
    count = outbox.add(asked.case)
    if count < len(set(asked.case)):
        raise BcdError(f"{len(set(asked.case)) - count} of these are no cases with images")
    say(f"waiting: {count}")
