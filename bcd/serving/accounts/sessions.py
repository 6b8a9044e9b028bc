"""Sessions: who a browser's cookie stands for, and until when."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Callable

from sqlalchemy import delete, insert, or_, select, update

from bcd.config.serve import SessionConfig
from bcd.serving.accounts.database import Database
from bcd.serving.accounts.tables import SESSIONS, USERS
from bcd.serving.accounts.user import User, key_of
from bcd.serving.errors import ForbiddenError, RequestError

_SEEN_EVERY = 60.0  # seconds between two notes of when a session was last used
_BY_DIGEST = select(SESSIONS, USERS).join(USERS, SESSIONS.c.user_key == USERS.c.key)


class Sessions:
    """Sessions in the database, by the sha256 of their cookie.

    Args:
        database: Of the users.
        cfg: How long they last.
        now: Seconds since 1970, UTC.
    """

    def __init__(self, database: Database, cfg: SessionConfig, now: Callable[[], float]) -> None:
        self._database, self._now = database, now
        self._lasts, self._idle = cfg.hours * 3600, cfg.idle_minutes * 60

    def begin(
        self, name: str, hashed: str, instead_of: str | None = None, site: str = ""
    ) -> str:  # fmt: skip
        """Begins a session, recorded as a login; returns the cookie's value.

        Args:
            name: Of the user.
            hashed: The hash that the password was compared with. It must still be the user's: a
                password that was reset while the old one was being checked begins no session.
            instead_of: The cookie that came with the login; its session ends.
            site: Of the user.

        Raises:
            ForbiddenError: The user has another password by now, or is disabled.
        """
        now, value, key = self._now(), secrets.token_urlsafe(32), key_of(name)
        row = {"digest": digest(value), "user_key": key, "created": now, "seen": now}
        table = SESSIONS.c
        old = [table.created <= now - self._lasts, table.seen <= now - self._idle]
        if instead_of is not None:
            old.append(table.digest == digest(instead_of))
        valid = (USERS.c.key == key) & (USERS.c.password == hashed) & ~USERS.c.disabled
        with self._database.changing(name, "login", {}, site) as connection:
            if connection.execute(select(USERS.c.key).where(valid)).first() is None:
                raise ForbiddenError("The password was changed meanwhile")
            connection.execute(delete(SESSIONS).where(or_(*old)))
            connection.execute(insert(SESSIONS).values(row))
        return value

    def user(self, value: str) -> User | None:
        """Who the cookie stands for; None if the session has ended or the user is disabled."""
        asked = digest(value)
        with self._database.reading() as connection:
            found = connection.execute(_BY_DIGEST.where(SESSIONS.c.digest == asked))
            row = found.mappings().first()
        now = self._now()
        if row is None or row["disabled"] or not hmac.compare_digest(row["digest"], asked):
            return None
        if now - row[SESSIONS.c.created] >= self._lasts or now - row["seen"] >= self._idle:
            return None
        if now - row["seen"] >= min(_SEEN_EVERY, self._idle / 10):
            # A full disk does not stop those who only read; the session then ends earlier.
            with contextlib.suppress(RequestError), self._database.noting() as connection:
                seen = update(SESSIONS).where(SESSIONS.c.digest == asked).values(seen=now)
                connection.execute(seen)
        roles = frozenset(row["roles"].split(","))
        csrf = csrf_of(value)
        return User(row["name"], roles, "session", csrf, row["must_change"], row["site"])

    def end(self, user: User, value: str) -> None:
        """Ends a session because its user logs out."""
        with self._database.changing(user.name, "logout", {}, user.site) as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.digest == digest(value)))


def digest(value: str) -> bytes:
    """What a cookie or token is found by; enough, as it has 256 random bits."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()


def csrf_of(value: str) -> str:
    """The CSRF token of a session; whoever knows it cannot compute the cookie's value."""
    return hmac.new(value.encode("utf-8", "surrogatepass"), b"csrf", hashlib.sha256).hexdigest()
