"""Looks after the records of a server; most commands may run while it serves.

bcd serve verify [--head <number>:<hash>]    # prints the head
bcd serve backup FILE
bcd serve restore FILE
bcd serve erase CASE --reason <text>
bcd serve expire --days <number>
bcd serve models [--cases]                   # which model versions answered what
bcd serve key FILE

The records are those of BCD_RECORDS, else SQLite in outputs/serve, if neither --records nor
--folder says otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING

from bcd.commands.serve_place import add_place, command_error, records_url, user_here, utc_minute
from bcd.console import say
from bcd.storage import csv_line, typed_path

if TYPE_CHECKING:
    from bcd.serving.records.store import Records
    from bcd.serving.records.verify import Verified


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status, 1 if the records are not whole."""
    parser = argparse.ArgumentParser(
        prog="bcd serve", description="Looks after the records of a server."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], about: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=f"{about.capitalize()}.")
        command.set_defaults(run=run)
        if name != "key":
            add_place(command)
        return command

    command = add("verify", _verify, "check the chain of records, and the tables against it")
    command.epilog = "Without --head, removed last records and a chain written anew are not found."
    command.add_argument("--head", help="<number>:<hash> as noted earlier or printed on a report")
    command = add("backup", _backup, "copy the records to a new file")
    command.add_argument("file")
    command = add("restore", _restore, "make records from a backup, if it is whole")
    command.add_argument("file")
    command = add("erase", _erase, "erase images, names, label and remarks of a case")
    command.add_argument("case", help="its id, as in the address of its page")
    command.add_argument("--reason", required=True, help="is recorded, and is never erased")
    command = add("expire", _expire, "remove kept images after their retention time")
    command.add_argument("--days", type=_age, required=True, help="age in days; 0: all images")
    command = add("models", _models, "print model versions and what they answered, as CSV")
    command.add_argument("--cases", action="store_true", help="every case with its model version")
    command = add("key", _key, "make a key for images.key_file")
    command.add_argument("file")
    asked = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = asked.run
    return run(asked)


def _age(typed: str) -> float:
    days = float(typed)
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{typed}: must be a number of days, 0 or more")
    return days


def _verify(asked: argparse.Namespace) -> int:
    url = records_url(asked)
    from bcd.serving.records.backup import existing
    from bcd.serving.records.verify import verify

    existing(url)
    return _report(verify(url, asked.head))


def _report(found: Verified) -> int:
    say(
        f"records: {found.records}; cases: {found.cases}, {found.erased} of them erased; images of "
        f"cases: {found.images}, {found.kept} of them kept"
    )
    for problem in found.problems:
        say(f"NOT WHOLE: {problem}")
    if found.problems:
        return 1
    say("whole: the chain verifies, and every table agrees with it")
    say("not covered: sessions, the days on which tokens were last used, and the outbox")
    say("head, for verify --head later: kept elsewhere, it proves that nothing was cut off since")
    print(found.head)  # noqa: T201
    return 0


def _backup(asked: argparse.Namespace) -> int:
    url, target = records_url(asked), typed_path(asked.file)
    from bcd.serving.records.backup import back_up

    back_up(url, target)
    say(f"{target}: {_size(target)} (a key of images.key_file is not in it)")
    return 0


def _restore(asked: argparse.Namespace) -> int:
    url = records_url(asked)
    from bcd.serving.records.backup import restore

    file = typed_path(asked.file)
    status = _report(restore(url, file))
    if status:
        say(f"nothing was restored: give another backup; {file} stays, as an SQLite database")
    return status


def _erase(asked: argparse.Namespace) -> int:
    from bcd.serving.outbox.listing import Listing

    with _opened(asked) as records:
        records.erase(user_here(), asked.case, asked.reason)
        left = Listing(records.engine).entries()
    say(f"case {asked.case}: erased; backups still have it")
    for each in left:
        if each.case_id == asked.case and each.not_erased_on:
            on = ", ".join(each.not_erased_on)
            say(f"until a server posts that it is erased, {on} has it: see bcd serve outbox list")
    return 0


def _expire(asked: argparse.Namespace) -> int:
    with _opened(asked) as records:
        count = records.expire(user_here(), asked.days)
    say(f"images removed: {count}")
    return 0


def _models(asked: argparse.Namespace) -> int:
    url = records_url(asked)
    from bcd.serving.records.backup import existing
    from bcd.serving.records.database import reading
    from bcd.serving.records.models import CaseModel, ModelUse, case_models, model_uses
    from bcd.serving.records.upgrade import prepare

    file = existing(url)
    engine = prepare(url)
    try:
        with reading(engine, file) as connection:
            if asked.cases:
                _print_csv(CaseModel, map(astuple, case_models(connection)))
            else:
                _print_csv(ModelUse, map(astuple, model_uses(connection)))
    finally:
        engine.dispose()
    return 0


def _print_csv(kind: type, rows: Iterable[Sequence[object]]) -> None:
    """Prints rows of a dataclass; times, which are floats, in words."""
    print(csv_line([field.name for field in fields(kind)]), end="")  # noqa: T201
    for row in rows:
        cells = [utc_minute(cell) if isinstance(cell, float) else cell for cell in row]
        print(csv_line(["" if cell is None else cell for cell in cells]), end="")  # noqa: T201


def _key(asked: argparse.Namespace) -> int:
    from bcd.serving.records.contents import make_key

    file = typed_path(asked.file)
    make_key(file)
    say(f"{file}: a new key; images that it encrypts cannot be read without it: keep a copy")
    return 0


@contextlib.contextmanager
def _opened(asked: argparse.Namespace) -> Iterator[Records]:
    """Records beside a server that may run; errors of requests become one line."""
    url = records_url(asked)
    from bcd.serving.errors import RequestError
    from bcd.serving.records.backup import existing
    from bcd.serving.records.contents import Contents
    from bcd.serving.records.store import Records
    from bcd.serving.records.upgrade import prepare

    file = existing(url)
    engine = prepare(url)
    try:
        with Records(engine, file, Contents(engine, None)) as records:
            yield records
    except RequestError as error:
        raise command_error(error) from error


def _size(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.1f} MB"
