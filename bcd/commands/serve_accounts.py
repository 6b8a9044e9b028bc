"""Adds and changes the users of a server, and their tokens; also while it serves.

bcd serve user add NAME --roles submit,review
bcd serve user add NAME --roles admin --no-password    # whom a reverse proxy logs in
bcd serve user add NAME --roles review --site east    # who sees the cases of this site only
bcd serve user list | roles NAME --roles … | site NAME SITE | password NAME
bcd serve user disable NAME | enable NAME
bcd serve token add NAME --roles submit [--days 90]
bcd serve token list | revoke ID

Passwords are asked for, or read from standard input: as an argument, every user of the machine
could see them. The server makes its records when it first starts, and not these commands.
"""

from __future__ import annotations

import argparse
import getpass
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports
from bcd.commands.serve_place import add_place, command_error, records_url, user_here
from bcd.config.sites import ALL
from bcd.console import say, show_table
from bcd.errors import BcdError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from bcd.serving.accounts.tokens import Tokens
    from bcd.serving.accounts.users import Users

_ROLES = "separated by commas, of submit, review, sign, admin"
_DAYS = 90
_Run = Callable[["Users", "Tokens", argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bcd serve", description="Adds and changes users and tokens."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="user | token")
    _user_commands(kinds.add_parser("user", help="users", description=__doc__.split("\n\n")[0]))
    _token_commands(kinds.add_parser("token", help="tokens", description=__doc__.split("\n\n")[0]))
    asked = parser.parse_args(arguments)
    return _run(asked)


def _user_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    add = _adding(commands)
    for command in (
        add("add", _add_user, "add a user"), add("roles", _roles, "give a user other roles")
    ):  # fmt: skip
        command.add_argument("name")
        command.add_argument("--roles", required=True, help=_ROLES)
    commands.choices["add"].add_argument(
        "--site", default="", help="whose cases are all that the user sees; default: of all sites"
    )
    site = add("site", _site, "let a user see the cases of one site only")
    site.add_argument("name")
    site.add_argument("site", help=f"its name, or {ALL} for all sites")
    for name, run, about in (
        ("password", _password, "give a user another password; sessions and tokens end"),
        ("disable", _disable, "end what a user may do, with all sessions and tokens"),
        ("enable", _enable, "let a disabled user log in again"),
    ):
        add(name, run, about).add_argument("name")
    commands.choices["add"].add_argument(
        "--no-password", action="store_true", help="only a reverse proxy logs the user in"
    )
    for name in ("add", "password"):
        commands.choices[name].add_argument(
            "--first", action="store_true", help="it has to be changed at the next login"
        )
    add("list", _list_users, "list users")


def _token_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    add = _adding(commands)
    command = add("add", _add_token, "make a token for a user, and print it this once")
    command.add_argument("name")
    command.add_argument("--roles", required=True, help=f"{_ROLES}; never more than the user has")
    command.add_argument("--days", type=float, default=_DAYS, help=f"it is valid; default: {_DAYS}")
    add("list", _list_tokens, "list tokens")
    add("revoke", _revoke, "end a token").add_argument("id", help="as listed")


def _adding(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> Callable[[str, _Run, str], argparse.ArgumentParser]:
    def add(name: str, run: _Run, about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=f"{about.capitalize()}.")
        command.set_defaults(run=run)
        add_place(command)
        return command

    return add


def _run(asked: argparse.Namespace) -> int:
    """Runs a command with the database; errors of requests become one line."""
    url = records_url(asked)
    with quick_imports():  # not before, as help needs none of it
        from bcd.serving.accounts.database import Database
        from bcd.serving.accounts.passwords import Passwords
        from bcd.serving.accounts.store import Accounts
        from bcd.serving.accounts.tokens import Tokens
        from bcd.serving.accounts.users import Users
        from bcd.serving.errors import RequestError
    engine = _engine(url)
    try:
        database = Database(engine)
        users = Users(database, Passwords(Accounts.hasher), time.time)
        run: _Run = asked.run
        run(users, Tokens(database, time.time), asked)
        _check_site(engine, getattr(asked, "site", ""))
    except RequestError as error:
        raise command_error(error) from error
    finally:
        engine.dispose()
    return 0


def _engine(url: str) -> Engine:
    from bcd.serving.records.backup import existing
    from bcd.serving.records.upgrade import prepare

    existing(url)  # not a new database, in which the server would not find the user
    return prepare(url)


def _add_user(users: Users, _: Tokens, asked: argparse.Namespace) -> None:
    password = None if asked.no_password else _typed_password()
    users.add(
        user_here(), asked.name, password, _split(asked.roles), asked.first, site=asked.site
    )  # fmt: skip
    say(f"{asked.name}: added")


def _roles(users: Users, _: Tokens, asked: argparse.Namespace) -> None:
    users.set_roles(user_here(), asked.name, _split(asked.roles))
    say(f"{asked.name}: roles changed; sessions have ended")


def _site(users: Users, _: Tokens, asked: argparse.Namespace) -> None:
    users.set_site(user_here(), asked.name, "" if asked.site == ALL else asked.site)
    say(f"{asked.name}: site changed; sessions have ended")


def _check_site(engine: Engine, site: str) -> None:
    """Says if no server has such a site, perhaps because the name is misspelled."""
    from bcd.serving.records.sites import started_sites

    with engine.connect() as connection:
        known = started_sites(connection)
    if site not in ("", ALL, *(known or [site])):
        names = ", ".join(filter(None, known or [])) or "none by name"
        say(f"warning: the server that started last has no site {site}; its sites: {names}")


def _password(users: Users, _: Tokens, asked: argparse.Namespace) -> None:
    users.set_password(user_here(), asked.name, _typed_password(), asked.first)
    say(f"{asked.name}: password changed; sessions and tokens have ended")


def _disable(users: Users, _: Tokens, asked: argparse.Namespace) -> None:
    users.set_disabled(user_here(), asked.name, True)
    say(f"{asked.name}: disabled; sessions and tokens have ended")


def _enable(users: Users, _: Tokens, asked: argparse.Namespace) -> None:
    users.set_disabled(user_here(), asked.name, False)
    say(f"{asked.name}: enabled")


def _list_users(users: Users, _: Tokens, asked: argparse.Namespace) -> None:
    rows = []
    for account in users.all():
        state = "has to change the password" if account.must_change else "active"
        roles = ", ".join(sorted(account.roles))
        state = "disabled" if account.disabled else state
        rows.append([account.name, roles, account.site or ALL, state])
    show_table("users", ["name", "roles", "site", "state"], rows)


def _add_token(_: Users, tokens: Tokens, asked: argparse.Namespace) -> None:
    token = tokens.add(user_here(), asked.name, _split(asked.roles), asked.days)
    say(f"a token of {asked.name}, valid for {asked.days:g} days, printed this once:")
    print(token)  # noqa: T201


def _list_tokens(_: Users, tokens: Tokens, asked: argparse.Namespace) -> None:
    rows = [
        [
            token.id, token.user, ", ".join(sorted(token.roles)), _day(token.created),
            _day(token.expires), token.used or "never",
        ]
        for token in tokens.all()
    ]  # fmt: skip
    show_table("tokens", ["id", "user", "roles", "made", "expires", "last used"], rows)


def _revoke(_: Users, tokens: Tokens, asked: argparse.Namespace) -> None:
    tokens.revoke(user_here(), asked.id)
    say(f"{asked.id}: revoked")


def _split(roles: str) -> list[str]:
    return [role.strip() for role in roles.split(",") if role.strip()]


def _typed_password() -> str:
    """From a prompt, twice, or the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    typed = getpass.getpass("Password: ")
    if getpass.getpass("Password again: ") != typed:
        raise BcdError("the two passwords differ")
    return typed


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"
