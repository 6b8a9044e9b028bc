"""Tokens: what programs send instead of a password."""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from datetime import datetime, timezone

from sqlalchemy import bindparam, delete, insert, select, update

from bcd.serving.accounts.database import Database
from bcd.serving.accounts.sessions import digest
from bcd.serving.accounts.tables import TOKENS, USERS
from bcd.serving.accounts.user import Token, User, checked_roles, in_order, key_of
from bcd.serving.errors import NotFoundError, RequestError, UnprocessableError
from bcd.serving.records.accounts import TOKEN_ADDED, TOKEN_REVOKED, fingerprint

PREFIX = "bcd_"
MAX_DAYS = 3650
_USER = select(USERS.c.name, USERS.c.site)
_OWNER = TOKENS.c.user_key == USERS.c.key
_BY_DIGEST = (
    select(TOKENS, USERS.c.name, USERS.c.site, USERS.c.disabled, USERS.c.roles.label("of_user"))
    .join(USERS, _OWNER)
    .where(TOKENS.c.digest == bindparam("asked"))
)
_ALL = select(TOKENS, USERS.c.name, USERS.c.site).join(USERS, _OWNER)


class Tokens:
    """Tokens in the database, by their sha256.

    Args:
        database: Of the users.
        now: Seconds since 1970, UTC.
    """

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database, self._now = database, now

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
        number, token, now = secrets.token_hex(4), PREFIX + secrets.token_urlsafe(32), self._now()
        with self._database.reading() as connection:
            owner = connection.execute(_USER.where(USERS.c.key == key)).one_or_none()
        if owner is None:
            raise NotFoundError("There is no such user")
        found, site = owner
        row = {
            "id": number, "user_key": key, "digest": digest(token), "roles": ",".join(chosen),
            "created": now, "expires": now + days * 86400,
        }  # fmt: skip
        facts = {
            "name": found, "token": number, "roles": chosen, "created": now,
            "expires": row["expires"], "digest": fingerprint(digest(token)),
        }  # fmt: skip
        with self._database.changing(by, TOKEN_ADDED, facts, site) as connection:
            connection.execute(insert(TOKENS).values(row))
        return token

    def user(self, token: str) -> User | None:
        """Who a token stands for; None if it is not valid or its user is disabled."""
        if not token.startswith(PREFIX):
            return None
        asked = digest(token)
        with self._database.reading() as connection:
            row = connection.execute(_BY_DIGEST, {"asked": asked}).mappings().first()
        now = self._now()
        if row is None or row["disabled"] or not hmac.compare_digest(row["digest"], asked):
            return None
        if now >= row["expires"]:
            return None
        if row["used"] != (today := _day(now)):
            with contextlib.suppress(RequestError), self._database.noting() as connection:
                used = update(TOKENS).where(TOKENS.c.id == row["id"]).values(used=today)
                connection.execute(used)
        roles = frozenset(row["roles"].split(",")) & frozenset(row["of_user"].split(","))
        return User(row["name"], roles, "token", site=row["site"])

    def all(self) -> list[Token]:
        """Every token, by user and age."""
        with self._database.reading() as connection:
            ordered = _ALL.order_by(USERS.c.key, TOKENS.c.created, TOKENS.c.id)
            rows = connection.execute(ordered).mappings().all()
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
        row = None
        if number.isascii() and number.isalnum():  # PostgreSQL does not take any text
            with self._database.reading() as connection:
                row = connection.execute(_ALL.where(TOKENS.c.id == number)).mappings().first()
        if row is None:
            raise NotFoundError("There is no such token")
        facts = {"name": row["name"], "token": number}
        with self._database.changing(by, TOKEN_REVOKED, facts, row["site"]) as connection:
            connection.execute(delete(TOKENS).where(TOKENS.c.id == number))


def _day(now: float) -> str:
    return f"{datetime.fromtimestamp(now, timezone.utc):%Y-%m-%d}"
