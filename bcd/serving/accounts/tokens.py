"""Tokens: what programs send instead of a password."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Engine, delete, insert, select, update

from bcd.serving.accounts.sessions import digest
from bcd.serving.accounts.tables import tokens, users
from bcd.serving.accounts.user import Token, User, checked_roles, in_order, key_of
from bcd.serving.errors import NotFoundError, UnprocessableError

PREFIX = "bcd_"
MAX_DAYS = 3650


class Tokens:
    """Tokens in the database, by their sha256.

    Args:
        database: Of the users.
        event: Records what was done: by whom, kind and details.
        now: Seconds since 1970, UTC.
    """

    def __init__(
        self, database: Engine, event: Callable[[str, str, Mapping[str, Any]], None],
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._database, self._event, self._now = database, event, now

    def add(self, by: str, name: str, roles: Iterable[str], days: float) -> str:
        """Makes a token; returns it, which nothing can do again.

        Args:
            by: Who does it.
            name: Of its user.
            roles: Of the token; those that the user does not have are of no use.
            days: Until it expires.

        Raises:
            NotFoundError: There is no such user.
            UnprocessableError: Roles that do not exist, or a time that is too long.
        """
        key, chosen = key_of(name), in_order(checked_roles(roles))
        if not 0 < days <= MAX_DAYS:
            raise UnprocessableError(
                f"A token is valid for more than 0 and at most {MAX_DAYS} days"
            )
        with self._database.connect() as connection:
            found = connection.execute(select(users.c.name).where(users.c.key == key)).scalar()
        if found is None:
            raise NotFoundError("There is no such user")
        number, token, now = secrets.token_hex(4), PREFIX + secrets.token_urlsafe(32), self._now()
        self._event(by, "token added", {"name": found, "token": number, "roles": chosen})
        row = {
            "id": number, "user": key, "digest": digest(token), "roles": ",".join(chosen),
            "created": now, "expires": now + days * 86400,
        }  # fmt: skip
        with self._database.begin() as connection:
            connection.execute(insert(tokens).values(row))
        return token

    def user(self, token: str) -> User | None:
        """Who a token stands for; None if it is not valid or its user is disabled."""
        if not token.startswith(PREFIX):
            return None
        asked = digest(token)
        both = select(
            tokens, users.c.name, users.c.disabled, users.c.roles.label("of_user")
        ).join(users, tokens.c.user == users.c.key)  # fmt: skip
        with self._database.connect() as connection:
            row = connection.execute(both.where(tokens.c.digest == asked)).mappings().first()
        now = self._now()
        if row is None or row["disabled"] or not hmac.compare_digest(row["digest"], asked):
            return None
        if now >= row["expires"]:
            return None
        if row["used"] != (today := _day(now)):
            with self._database.begin() as connection:
                connection.execute(
                    update(tokens).where(tokens.c.id == row["id"]).values(used=today)
                )
        roles = frozenset(row["roles"].split(",")) & frozenset(row["of_user"].split(","))
        return User(row["name"], roles, "token")

    def all(self) -> list[Token]:
        """Every token, by user and age."""
        both = select(tokens, users.c.name).join(users, tokens.c.user == users.c.key)
        with self._database.connect() as connection:
            rows = connection.execute(both.order_by(users.c.key, tokens.c.created)).mappings().all()
        return [
            Token(
                row["id"], row["name"], frozenset(row["roles"].split(",")), row["created"],
                row["expires"], row["used"],
            )
            for row in rows
        ]  # fmt: skip

    def revoke(self, by: str, number: str) -> None:
        """Ends a token.

        Raises:
            NotFoundError: There is no such token.
        """
        both = select(users.c.name).join(tokens, tokens.c.user == users.c.key)
        with self._database.connect() as connection:
            name = connection.execute(both.where(tokens.c.id == number)).scalar()
        if name is None:
            raise NotFoundError("There is no such token")
        self._event(by, "token revoked", {"name": name, "token": number})
        with self._database.begin() as connection:
            connection.execute(delete(tokens).where(tokens.c.id == number))


def _day(now: float) -> str:
    return f"{datetime.fromtimestamp(now, timezone.utc):%Y-%m-%d}"
