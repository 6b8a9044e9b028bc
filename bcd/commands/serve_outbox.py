"""Shows and changes what is posted to the FHIR server; it may run while a server does.

bcd serve outbox list
bcd serve outbox retry [CASE ...]
bcd serve outbox add CASE ... | --all
bcd serve outbox erased CASE ...

A running server posts what is changed here within a second or so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports
from bcd.commands.serve_place import add_place, command_error, records_url, user_here, utc_minute
from bcd.console import say
from bcd.storage import csv_line

if TYPE_CHECKING:
    from bcd.serving.outbox.listing import Listing

_Run = Callable[["Listing", argparse.Namespace], None]


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
    command = add("add", _add, "post cases, whatever the FHIR server has of them")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("case", nargs="*", default=[], help="its id")
    which.add_argument("--all", action="store_true", help="all cases that have images")
    command = add("erased", _erased, "record that you have erased cases on the FHIR servers named")
    command.add_argument("case", nargs="+", help="its id, as in the list")
    return _run(parser.parse_args(arguments))


def _run(asked: argparse.Namespace) -> int:
    url = records_url(asked)
    with quick_imports():  # not before, as help needs none of it
        from bcd.serving.errors import RequestError
        from bcd.serving.outbox.listing import Listing
        from bcd.serving.records.backup import existing
        from bcd.serving.records.upgrade import prepare
    existing(url)
    engine = prepare(url)
    try:
        asked.run(Listing(engine), asked)
    except RequestError as error:
        raise command_error(error) from error
    finally:
        engine.dispose()
    return 0


def _list(outbox: Listing, _: argparse.Namespace) -> None:
    rows: list[list[object]] = [
        [
            each.case_id, each.state, str(each.version),
            "never" if each.sent is None else str(each.sent), str(each.attempts),
            utc_minute(each.due) if each.state == "waiting" else "", each.error,
            " ".join(each.not_erased_on),
        ]
        for each in outbox.entries()
    ]  # fmt: skip
    head: list[object] = [
        "case", "state", "version", "delivered", "attempts", "next", "last_error", "not_erased_on",
    ]  # fmt: skip
    for row in [head, *rows]:
        print(csv_line(row), end="")  # noqa: T201
    counts = outbox.counts()
    say(f"waiting: {counts.waiting}; failed: {counts.failed}; not erased: {counts.not_erased}")
    if counts.not_erased:
        say("not erased: these are erased here; on FHIR servers other than that of fhir.url erase")
        say("them there, then: bcd serve outbox erased CASE")
    if (until := outbox.quiet_until()) is not None:
        say(f"the FHIR server asked to be left alone until {utc_minute(until)}; retry ends that")


def _retry(outbox: Listing, asked: argparse.Namespace) -> None:
    say(f"tried again at once: {outbox.retry(asked.case)}")


def _add(outbox: Listing, asked: argparse.Namespace) -> None:
    say(f"waiting: {outbox.add(asked.case)}")


def _erased(outbox: Listing, asked: argparse.Namespace) -> None:
    outbox.confirm_erased(user_here(), asked.case)
    say(f"recorded as erased elsewhere: {len(set(asked.case))}")
