"""The accounts: users, sessions and tokens, logins and the first admin."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from argon2 import PasswordHasher
from sqlalchemy import Engine, insert, select

from bcd.config.serve import ServeConfig
from bcd.config.sites import read_sites
from bcd.serving.accounts.attempts import Attempts
from bcd.serving.accounts.database import Database
from bcd.serving.accounts.passwords import STRONG, Passwords
from bcd.serving.accounts.sessions import Sessions, digest
from bcd.serving.accounts.tables import SERVER_KEYS
from bcd.serving.accounts.tokens import Tokens
from bcd.serving.accounts.user import ROLES, Account, User, key_of
from bcd.serving.accounts.users import Users, account_of
from bcd.serving.errors import ConflictError, ForbiddenError, RequestError
from bcd.serving.records.accounts import KEY_MADE, fingerprint


@dataclass(frozen=True)
class Login:
    """A session that has begun.

    Attributes:
        account: Of the user.
        cookie: The cookie's value.
    """

    account: Account
    cookie: str = field(repr=False)


class Accounts:
    """Users, sessions and tokens, in the records' database.

    Everything is read from the database whenever it is needed, so what another process changes,
    such as `bcd serve user disable`, holds at once. A change and its record are one transaction.

    Args:
        database: Of the records, with all tables.
        cfg: The configuration.
        now: Seconds since 1970, UTC.

    Attributes:
        hasher: Parameters of argon2id; tests use cheap ones.
        users: Everybody who may log in.
        sessions: Of browsers.
        tokens: Of programs.
        sites: Names of the server's sites.
        proxy_key: Makes the CSRF tokens of users that a proxy logs in.
    """

    hasher: ClassVar[PasswordHasher] = STRONG

    def __init__(
        self, database: Engine, cfg: ServeConfig, now: Callable[[], float] = time.time
    ) -> None:
        self.cfg = cfg
        self.sites = tuple(read_sites(cfg))
        self._database = Database(database, cfg.site)
        self._passwords = Passwords(self.hasher)
        self._attempts = Attempts(cfg.limits.logins_per_minute)
        self.users = Users(self._database, self._passwords, now)
        self.sessions = Sessions(self._database, cfg.session, now)
        self.tokens = Tokens(self._database, now)
        self.proxy_key = _shared_key(self._database, "proxy")
        self._setup = ""
        self._setting_up = threading.Lock()

    @property
    def asks_for_passwords(self) -> bool:
        """Whether users log in here, and not at a reverse proxy."""
        return self.cfg.proxy.user_header is None

    def log_in(
        self, name: str, password: str, address: str, instead_of: str | None = None
    ) -> Login | None:  # fmt: skip
        """Begins a session; None if the name or the password is wrong, or the user is disabled.

        An unknown name takes the same time as a wrong password. Both are recorded, the name only if
        there is such a user.

        Args:
            name: As typed.
            password: As typed.
            address: Of the client; failures are limited by name and by address.
            instead_of: The cookie that came with the login; its session ends.

        Raises:
            BusyError: Too many failures, or too many passwords are being checked.
        """
        try:
            key = key_of(name)
        except RequestError:
            key = ""
        with self._passwords.place(self._attempts.knows(key, address)):
            self._attempts.begin(key, address)
            row = self.users.row(key)
            right = self._passwords.check(password, None if row is None else row["password"])
        if row is not None and right and not row["disabled"]:
            self._attempts.succeeded(key, address)
            hashed = row["password"]
            if self._passwords.outdated(hashed):
                hashed = self.users.rehash(row, password)
            with contextlib.suppress(ForbiddenError):
                cookie = self.sessions.begin(row["name"], hashed, instead_of, row["site"])
                return Login(account_of(row), cookie)
        self._attempts.failed(key, address)
        name, site = ("", "") if row is None else (row["name"], row["site"])
        self._database.record(name, "login failed", site)
        return None

    def confirm(self, user: User, password: str) -> bool:
        """Whether it is this user's password; before a signature.

        Raises:
            BusyError: Too many failures, or too many passwords are being checked.
        """
        key = key_of(user.name)
        guesses = f"{key} confirms"  # counted apart: failed logins do not keep others from signing
        with self._passwords.place(known=True):
            self._attempts.begin(guesses, "")
            row = self.users.row(key)
            right = self._passwords.check(password, None if row is None else row["password"])
        if row is None or row["disabled"] or not right:
            self._database.record(user.name, "confirmation failed", user.site)
            return False
        self._attempts.succeeded(guesses, "")
        return True

    def setup_path(self) -> str:
        """Path of the one-time link by which the first admin is made; empty if there is an admin.

        It is valid until there is an admin or the server stops. It is not logged, only printed,
        and whoever can read what a server prints can use it until then.
        """
        if not self.asks_for_passwords or self.users.has_admin():
            return ""
        with self._setting_up:
            self._setup = self._setup or secrets.token_urlsafe(32)
            return f"/setup?token={self._setup}"

    def may_set_up(self, token: str) -> bool:
        """Whether this is the token of the link, and there is still no admin."""
        right = secrets.compare_digest(digest(token), digest(self._setup))
        return bool(self._setup) and right and not self.users.has_admin()

    def set_up(self, token: str, name: str, password: str) -> None:
        """Makes the first admin, with all roles; the link is not valid any more.

        Raises:
            ForbiddenError: The link is not valid.
            UnprocessableError: The name or the password is not accepted.
            ConflictError: There is a user of this name, or by now an admin.
        """
        with self._setting_up:
            if not self.may_set_up(token):
                raise ForbiddenError("This link is not valid any more")
            self.users.add("", name, password, ROLES, first=True)
            self._setup = ""


def _shared_key(database: Database, name: str) -> bytes:
    """A secret that all servers of the database share; made when it is first needed."""
    asked = select(SERVER_KEYS.c.value).where(SERVER_KEYS.c.name == name)
    with database.reading() as connection:
        found = connection.execute(asked).scalar()
    if found is None:
        made = secrets.token_bytes(32)
        facts = {"name": name, "value": fingerprint(made)}
        with (
            contextlib.suppress(ConflictError),
            database.changing("", KEY_MADE, facts) as connection,
        ):
            found = connection.execute(asked).scalar()
            if found is not None:
                raise ConflictError("Another server has made the key meanwhile")
            connection.execute(insert(SERVER_KEYS).values(name=name, value=made))
    return made if found is None else bytes(found)
