"""How accounts are read and changed: every change and its record are one transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from bcd.serving.records.chain import Ledger
from bcd.serving.records.database import request_error, writing


class Database:
    """The records' database; several processes may change it at the same time.

    Every method raises `StorageFullError` if the disk is full, and `UnavailableError` if the
    database cannot be used; then nothing has changed.

    Args:
        engine: With all tables.
        site: The server's own.
    """

    def __init__(self, engine: Engine, site: str = "") -> None:
        self._engine, self._site = engine, site
        sqlite = engine.dialect.name == "sqlite" and engine.url.database
        self._file = Path(sqlite) if sqlite else None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that reads."""
        with self._known_errors(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def noting(self) -> Iterator[Connection]:
        """A connection whose changes need no record, such as when a session was last used."""
        with self._known_errors(), writing(self._engine) as connection:
            yield connection

    @contextlib.contextmanager
    def changing(
        self, by: str, kind: str, facts: Mapping[str, object], site: str = ""
    ) -> Iterator[Connection]:
        """A connection whose changes are recorded; nobody else changes anything meanwhile.

        Args:
            by: Name of the user who does it; empty if nobody is logged in.
            kind: What is done.
            facts: JSON values that are never erased: no passwords, no tokens.
            site: Of the user it is about; empty: the server's own.
        """
        with self._known_errors(), writing(self._engine) as connection:
            ledger = Ledger(connection)
            yield connection
            ledger.append(by, kind, facts, site=site or self._site)
            ledger.finish()

    def record(self, by: str, kind: str, site: str = "") -> None:
        """Records what changes nothing, such as a failed login."""
        with self.changing(by, kind, {}, site):
            pass

    @contextlib.contextmanager
    def _known_errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            known = request_error(error, self._file)
            if known is None:
                raise
            raise known from error
