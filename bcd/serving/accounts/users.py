"""Users, their roles and passwords."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from bcd.serving.accounts.database import Database
from bcd.serving.accounts.passwords import NO_PASSWORD, Passwords, check_policy
from bcd.serving.accounts.sessions import digest
from bcd.serving.accounts.tables import SESSIONS, TOKENS, USERS
from bcd.serving.accounts.user import Account, checked_roles, checked_site, in_order, key_of
from bcd.serving.errors import ConflictError, NotFoundError, RequestError
from bcd.serving.records.accounts import (
    REHASHED,
    TOKENS_ENDED,
    USER_ADDED,
    USER_DISABLED,
    USER_ENABLED,
    USER_PASSWORD,
    USER_ROLES,
    USER_SITE,
    fingerprint,
)


class Users:
    """Users in the database.

    Args:
        database: Of the records.
        passwords: Hashes them.
        now: Seconds since 1970, UTC.
    """

    def __init__(
        self, database: Database, passwords: Passwords, now: Callable[[], float]
    ) -> None:  # fmt: skip
        self._database, self._passwords, self._now = database, passwords, now

    def add(
        self,
        by: str,
        name: str,
        password: str | None,
        roles: Iterable[str],
        must_change: bool = False,
        first: bool = False,
        site: str = "",
    ) -> None:
        """Adds a user.

        Args:
            by: Who does it.
            name: Compared without case.
            password: Of the user; None if only a proxy logs the user in.
            roles: Of `ROLES`.
            must_change: Whether the user has to choose another password at the first login.
            first: Whether it must be the first admin.
            site: Whose cases are all that the user sees; empty: those of all sites.

        Raises:
            UnprocessableError: A name, a password, roles or a site that are not accepted.
            ConflictError: There is a user of this name, or an admin if it must be the first.
        """
        key, chosen = key_of(name), in_order(checked_roles(roles))
        if password is not None:
            check_policy(password, name)
        hashed = NO_PASSWORD if password is None else self._passwords.hash(password)
        same = {
            "name": name, "must_change": must_change, "created": self._now(),
            "site": checked_site(site),
        }  # fmt: skip
        row = {
            **same, "key": key, "roles": ",".join(chosen), "password": hashed, "disabled": False,
        }  # fmt: skip
        facts = {**same, "roles": chosen, "password": fingerprint(hashed)}
        with self._database.changing(by, USER_ADDED, facts, site) as writes:
            if _row(writes, key) is not None:
                raise ConflictError("There is already a user of this name")
            if first and any("admin" in account_of(row).roles for row in _rows(writes)):
                raise ConflictError("There is already an administrator")
            writes.execute(insert(USERS).values(row))

    def find(self, name: str) -> Account | None:
        """A user as recorded; None if there is none."""
        try:
            row = self.row(key_of(name))
        except RequestError:  # no such name is possible
            return None
        return None if row is None else account_of(row)

    def all(self) -> list[Account]:
        """Every user, by name."""
        with self._database.reading() as connection:
            rows = _rows(connection)
        return [account_of(row) for row in rows]

    def has_admin(self) -> bool:
        """Whether anybody was made admin, disabled or not."""
        return any("admin" in account.roles for account in self.all())

    def set_roles(
        self, by: str, name: str, roles: Iterable[str], keep: str | None = None
    ) -> None:  # fmt: skip
        """Gives a user other roles; sessions end.

        Args:
            by: Who does it.
            name: Of the user.
            roles: All roles from now on.
            keep: The cookie of the one session that goes on.

        Raises:
            NotFoundError: There is no such user.
            UnprocessableError: Roles that do not exist.
            ConflictError: Nobody would be admin any more.
        """
        chosen = in_order(checked_roles(roles))
        account = self._known(name)
        facts = {"name": account.name, "roles": chosen}
        with self._database.changing(by, USER_ROLES, facts, account.site) as writes:
            if "admin" not in chosen:
                _check_other_admin(writes, account)
            _change(writes, account, keep, roles=",".join(chosen))

    def set_site(self, by: str, name: str, site: str) -> None:
        """Lets a user see the cases of another site only; sessions end.

        Args:
            by: Who does it.
            name: Of the user.
            site: Its name; empty for all sites.

        Raises:
            NotFoundError: There is no such user.
            UnprocessableError: No site can have this name.
            ConflictError: Nobody would be admin of all sites any more.
        """
        account = self._known(name)
        facts = {"name": account.name, "site": checked_site(site)}
        with self._database.changing(by, USER_SITE, facts, account.site) as writes:
            if site not in ("", account.site):
                _check_other_admin(writes, account)
            _change(writes, account, None, site=site)

    def set_password(
        self, by: str, name: str, password: str, must_change: bool = False, keep: str | None = None
    ) -> None:
        """Gives a user another password; sessions end, and tokens if somebody else does it.

        Args:
            by: Who does it.
            name: Of the user.
            password: The new one.
            must_change: Whether the user has to choose another one at the next login.
            keep: The cookie of the session in which users change their own password, and which goes
                on; None for a reset by somebody else.

        Raises:
            NotFoundError: There is no such user.
            UnprocessableError: The password is not accepted.
            ConflictError: The session that goes on has ended meanwhile, such as by another reset.
        """
        account = self._known(name)
        check_policy(password, account.name)
        hashed = self._passwords.hash(password)
        facts: dict[str, object] = {
            "name": account.name, "password": fingerprint(hashed), "must_change": must_change,
        }  # fmt: skip
        if keep is None:
            facts[TOKENS_ENDED] = True
        with self._database.changing(by, USER_PASSWORD, facts, account.site) as writes:
            if keep is not None:
                _check_session(writes, account, keep)
            else:
                _end_tokens(writes, account)
            _change(writes, account, keep, password=hashed, must_change=must_change)

    def set_disabled(self, by: str, name: str, disabled: bool) -> None:
        """Disables a user, whose sessions and tokens end, or enables one again.

        Raises:
            NotFoundError: There is no such user.
            ConflictError: Nobody would be admin any more.
        """
        account = self._known(name)
        kind = USER_DISABLED if disabled else USER_ENABLED
        with self._database.changing(by, kind, {"name": account.name}, account.site) as writes:
            if disabled:
                _check_other_admin(writes, account)
                _end_tokens(writes, account)
            _change(writes, account, None, disabled=disabled)

    def row(self, key: str) -> RowMapping | None:
        """A user's row, with the password's hash; None if there is none."""
        with self._database.reading() as connection:
            return _row(connection, key)

    def rehash(self, row: RowMapping, password: str) -> str:
        """Stores a hash of the same password with the parameters of today, and returns it.

        Args:
            row: Of the user; nothing changes if the password is another one by now.
            password: The right one.
        """
        key, hashed = row["key"], self._passwords.hash(password)
        facts = {"name": row["name"], "password": fingerprint(hashed)}
        with (
            contextlib.suppress(ConflictError),
            self._database.changing(row["name"], REHASHED, facts, row["site"]) as writes,
        ):
            found = _row(writes, key)
            if found is None or found["password"] != row["password"]:
                raise ConflictError("The password was changed meanwhile")
            writes.execute(update(USERS).where(USERS.c.key == key).values(password=hashed))
        return hashed

    def _known(self, name: str) -> Account:
        account = self.find(name)
        if account is None:
            raise NotFoundError("There is no such user")
        return account


def _row(connection: Connection, key: str) -> RowMapping | None:
    return connection.execute(select(USERS).where(USERS.c.key == key)).mappings().first()


def _rows(connection: Connection) -> Sequence[RowMapping]:
    return connection.execute(select(USERS).order_by(USERS.c.key)).mappings().all()


def _change(connection: Connection, account: Account, keep: str | None, **values: object) -> None:
    """Changes a user and ends all sessions but one."""
    key = key_of(account.name)
    ended = delete(SESSIONS).where(SESSIONS.c.user_key == key)
    if keep is not None:
        ended = ended.where(SESSIONS.c.digest != digest(keep))
    connection.execute(update(USERS).where(USERS.c.key == key).values(values))
    connection.execute(ended)


def _end_tokens(connection: Connection, account: Account) -> None:
    connection.execute(delete(TOKENS).where(TOKENS.c.user_key == key_of(account.name)))


def _check_session(connection: Connection, account: Account, cookie: str) -> None:
    own = (SESSIONS.c.digest == digest(cookie)) & (SESSIONS.c.user_key == key_of(account.name))
    if connection.execute(select(SESSIONS.c.created).where(own)).first() is None:
        raise ConflictError("Your session has ended meanwhile; log in again")


def _check_other_admin(connection: Connection, account: Account) -> None:
    """Refuses to take the role from the only one who may manage this user's site, or all."""
    accounts = [account_of(row) for row in _rows(connection)]
    active = {
        other.name: other for other in accounts if "admin" in other.roles and not other.disabled
    }
    last = active.pop(account.name, None) is not None
    if last and not any(other.site in ("", account.site) for other in active.values()):
        whose = " of all sites" if active else ""
        raise ConflictError(f"Nobody else is admin{whose}, so this user has to stay one")


def account_of(row: RowMapping) -> Account:
    """The user of a row."""
    roles = frozenset(row["roles"].split(","))
    return Account(
        row["name"], roles, row["disabled"], row["must_change"], row["created"], row["site"]
    )
