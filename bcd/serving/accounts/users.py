"""Users, their roles and passwords."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Engine, RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from bcd.serving.accounts.passwords import Passwords, check_policy
from bcd.serving.accounts.sessions import digest
from bcd.serving.accounts.tables import sessions, tokens, users
from bcd.serving.accounts.user import Account, checked_roles, in_order, key_of
from bcd.serving.errors import ConflictError, NotFoundError, RequestError

Event = Callable[[str, str, Mapping[str, Any]], None]
_TAKEN = "There is already a user of this name"


class Users:
    """Users in the database.

    Args:
        database: Of the records.
        event: Records what is done, before it is done: by whom, kind and details.
        passwords: Hashes them.
        now: Seconds since 1970, UTC.
    """

    def __init__(
        self, database: Engine, event: Event, passwords: Passwords, now: Callable[[], float]
    ) -> None:
        self._database, self._event, self._passwords, self._now = database, event, passwords, now

    def add(
        self, by: str, name: str, password: str, roles: Iterable[str], must_change: bool = False
    ) -> None:
        """Adds a user.

        Args:
            by: Who does it.
            name: Compared without case.
            password: Of the user.
            roles: Of `ROLES`.
            must_change: Whether the user has to choose another password at the first login.

        Raises:
            UnprocessableError: A name, a password or roles that are not accepted.
            ConflictError: There is a user of this name.
        """
        key, chosen = key_of(name), in_order(checked_roles(roles))
        check_policy(password, name)
        if self.row(key) is not None:
            raise ConflictError(_TAKEN)
        row = {
            "key": key, "name": name, "roles": ",".join(chosen),
            "password": self._passwords.hash(password), "must_change": must_change,
            "disabled": False, "created": self._now(),
        }  # fmt: skip
        self._event(by, "user added", {"name": name, "roles": chosen})
        try:
            with self._database.begin() as connection:
                connection.execute(insert(users).values(row))
        except IntegrityError as error:
            raise ConflictError(_TAKEN) from error

    def find(self, name: str) -> Account | None:
        """A user as recorded; None if there is none."""
        try:
            row = self.row(key_of(name))
        except RequestError:  # no such name is possible
            return None
        return None if row is None else account_of(row)

    def all(self) -> list[Account]:
        """Every user, by name."""
        with self._database.connect() as connection:
            rows = connection.execute(select(users).order_by(users.c.key)).mappings().all()
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
        if "admin" not in chosen:
            self._check_other_admin(account)
        self._event(by, "user roles", {"name": account.name, "roles": chosen})
        self._change(account, keep, roles=",".join(chosen))

    def set_password(
        self, by: str, name: str, password: str, must_change: bool = False, keep: str | None = None
    ) -> None:
        """Gives a user another password; sessions end.

        Args:
            by: Who does it.
            name: Of the user.
            password: The new one.
            must_change: Whether the user has to choose another one at the next login.
            keep: The cookie of the one session that goes on.

        Raises:
            NotFoundError: There is no such user.
            UnprocessableError: The password is not accepted.
        """
        account = self._known(name)
        check_policy(password, account.name)
        hashed = self._passwords.hash(password)
        self._event(by, "user password", {"name": account.name})
        self._change(account, keep, password=hashed, must_change=must_change)

    def set_disabled(self, by: str, name: str, disabled: bool) -> None:
        """Disables a user, whose sessions and tokens end, or enables one again.

        Raises:
            NotFoundError: There is no such user.
            ConflictError: Nobody would be admin any more.
        """
        account = self._known(name)
        if disabled:
            self._check_other_admin(account)
        self._event(by, "user disabled" if disabled else "user enabled", {"name": account.name})
        self._change(account, None, disabled=disabled)
        if disabled:
            with self._database.begin() as connection:
                connection.execute(delete(tokens).where(tokens.c.user == key_of(account.name)))

    def row(self, key: str) -> RowMapping | None:
        """A user's row, with the password's hash; None if there is none."""
        with self._database.connect() as connection:
            return connection.execute(select(users).where(users.c.key == key)).mappings().first()

    def rehash(self, key: str, password: str) -> None:
        """Stores a hash of the same password with the parameters of today."""
        hashed = self._passwords.hash(password)
        with self._database.begin() as connection:
            connection.execute(update(users).where(users.c.key == key).values(password=hashed))

    def _known(self, name: str) -> Account:
        account = self.find(name)
        if account is None:
            raise NotFoundError("There is no such user")
        return account

    def _change(self, account: Account, keep: str | None, **values: object) -> None:
        """Changes a user and ends all sessions but one."""
        key = key_of(account.name)
        ended = delete(sessions).where(sessions.c.user == key)
        if keep is not None:
            ended = ended.where(sessions.c.digest != digest(keep))
        with self._database.begin() as connection:
            connection.execute(update(users).where(users.c.key == key).values(values))
            connection.execute(ended)

    def _check_other_admin(self, account: Account) -> None:
        others = [other for other in self.all() if other.name != account.name]
        if "admin" in account.roles and not any(
            "admin" in other.roles and not other.disabled for other in others
        ):
            raise ConflictError("Nobody else is admin, so this user has to stay one")


def account_of(row: RowMapping) -> Account:
    """The user of a row."""
    roles = frozenset(row["roles"].split(","))
    return Account(row["name"], roles, row["disabled"], row["must_change"], row["created"])
