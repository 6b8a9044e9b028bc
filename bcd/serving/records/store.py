"""The records: what was answered, reviewed, signed and erased."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import filelock
from sqlalchemy import Engine, select

from bcd.config.serve import ImagesConfig
from bcd.serving.answers import ImageAnswer, ModelIdentity
from bcd.serving.errors import ConflictError
from bcd.serving.records import changes, queries
from bcd.serving.records.accounts import ACCOUNT_KINDS
from bcd.serving.records.alarms import add_alarms
from bcd.serving.records.cases import ERASED, Case, CaseSummary, NewImage, Source
from bcd.serving.records.contents import Contents
from bcd.serving.records.database import clean, clean_once, reading, sqlite_file
from bcd.serving.records.expiry import expire
from bcd.serving.records.ids import check_ids, new_id
from bcd.serving.records.replay import KINDS
from bcd.serving.records.sqlite import lock_file
from bcd.serving.records.tables import HEAD
from bcd.serving.records.upgrade import prepare
from bcd.serving.records.writer import Change, T, Writer

_SERVER = "server"  # who removes images after their retention time
_HOUR = 3600.0  # seconds


def open_records(url: str, images: ImagesConfig, site: str = "") -> Records:
    """Opens the records of a server, and creates or migrates the database.

    Args:
        url: Of the database; see `database.database_url`.
        images: What becomes of images.
        site: The server's own.

    Raises:
        BcdError: The database cannot be used or is damaged, another server uses the same SQLite
            file, or kept images cannot be decrypted.
        ConfigError: The URL or the key is not valid.
    """
    lock = None if (file := sqlite_file(url)) is None else lock_file(file)
    try:
        engine = prepare(url, check=True)
        return Records(engine, file, Contents(engine, images), images.days, lock, site)
    except BaseException:
        if lock is not None:
            lock.release()
        raise


class Records:
    """Append-only records. Methods are thread-safe and return once their change is on disk.

    All methods raise `StorageFullError` if the disk is full and `UnavailableError` if the database
    cannot be used; then nothing of the change is recorded.

    Args:
        engine: The database, with its tables.
        file: Of an SQLite database; None for PostgreSQL.
        contents: What becomes of images.
        days: After which kept images are removed, once an hour; None: never.
        lock: Held while this is open.
        site: The server's own, of events that are of no user.

    Attributes:
        engine: The database, also for the tables of accounts.
        contents: What becomes of images.
    """

    def __init__(
        self,
        engine: Engine,
        file: Path | None,
        contents: Contents,
        days: float | None = None,
        lock: filelock.BaseFileLock | None = None,
        site: str = "",
    ) -> None:
        self.engine, self._site = engine, site
        self._file, self.contents, self._days, self._lock = file, contents, days, lock
        self._next_expiry = time.monotonic()
        self._writer = Writer(engine, file, self._hourly)
        self.ready = self._writer.ready  # why nothing can be written, or empty

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes what waits and closes the database."""
        self._writer.close()
        self.engine.dispose()
        if self._lock is not None:
            self._lock.release()

    def add_answers(
        self, user: str, answers: Sequence[ImageAnswer], model: ModelIdentity, site: str = ""
    ) -> None:
        """Records answers that belong to no case."""
        self.submit_answers(user, answers, model, site).result()

    def submit_answers(
        self, user: str, answers: Sequence[ImageAnswer], model: ModelIdentity, site: str = "",
        sources: Sequence[Source | None] = (),
    ) -> Future[None]:  # fmt: skip
        """As `add_answers`; what it would wait for, or raise, the future gets."""
        return self._writer.submit(
            lambda ledger: changes.add_answers(ledger, user, answers, model, site, sources)
        )

    def change(self, change: Change[T]) -> T:
        """Makes a change of another module; see `Writer.submit`, also for what it raises."""
        return self._writer.do(change)

    def open_case(
        self, user: str, label: str, model: ModelIdentity, signatures_needed: int, site: str = ""
    ) -> str:
        """Opens a case and returns its id.

        Args:
            user: Who opens it.
            label: What the user calls it.
            model: That will answer its images.
            signatures_needed: How many different people have to sign.
            site: Whose case it is.
        """
        case_id = new_id()
        opened = partial(changes.open_case, user=user, case_id=case_id, label=label, model=model,
                         needed=signatures_needed, site=site)  # fmt: skip
        self._writer.do(opened)
        return case_id

    def add_images(
        self,
        user: str,
        case_id: str,
        model: ModelIdentity,
        images: Sequence[tuple[NewImage, ImageAnswer]],
    ) -> list[str]:
        """Adds images to a case. Signatures that it already has no longer count.

        Args:
            user: Who adds them.
            case_id: The case.
            model: That has answered.
            images: Each with its answer. See `changes.add_images` for what it returns and raises.
        """
        check_ids(case_id)
        if any(answer.model_sha256 != model.sha256 for _, answer in images):
            raise ConflictError("The answers are of another model.")
        rows = [(new_id(), image, answer) for image, answer in images]
        ids = self.change(
            lambda ledger: changes.add_images(ledger, user, case_id, model, rows, self.contents)
        )
        for image_id, (_, image, answer) in zip(ids, rows, strict=True):
            self.contents.remember(image_id, image.data, answer)
        return ids

    def site_of(self, case_id: str) -> str:
        """Whose case it is; raises a `NotFoundError` if there is no such case."""
        check_ids(case_id)
        with reading(self.engine, self._file) as connection:
            return queries.read_site(connection, case_id)

    def case(self, case_id: str) -> Case:
        """A case with its images.

        Raises:
            NotFoundError: There is no such case.
        """
        check_ids(case_id)
        with reading(self.engine, self._file) as connection:
            return queries.read_case(connection, case_id)

    def cases(
        self, limit: int, before: float | None = None, status: str | None = None,
        site: str | None = None,
    ) -> list[CaseSummary]:  # fmt: skip
        """Cases, the last opened first.

        Args:
            limit: At most so many.
            before: Only cases opened before that time, in seconds since 1970.
            status: Only cases with this status.
            site: Only cases of this site.
        """
        with reading(self.engine, self._file) as connection:
            return queries.read_cases(connection, limit, before, status, site)

    def review(
        self, user: str, case_id: str, image_id: str, finding: str, remark: str,
        seen: int | None = None, image_held: bool = True,
    ) -> None:  # fmt: skip
        """Records what a person found in an image; see `changes.review`.

        Earlier signatures no longer count.
        """
        check_ids(case_id, image_id)
        self._writer.do(
            lambda ledger: changes.review(
                ledger, user, case_id, image_id, finding, remark, seen, image_held
            )
        )

    def sign(self, user: str, case_id: str, version: int) -> None:
        """Records a signature under the `version` that the user saw; see `changes.sign`."""
        check_ids(case_id)
        self._writer.do(lambda ledger: changes.sign(ledger, user, case_id, version))

    def image(self, case_id: str, image_id: str) -> bytes | None:
        """The bytes of an image as uploaded; None if they are gone.

        Raises:
            NotFoundError: There is no such image in the case.
            UnavailableError: They were changed, or cannot be decrypted.
        """
        check_ids(case_id, image_id)
        with reading(self.engine, self._file) as connection:
            status, stored = queries.read_stored(connection, case_id, image_id)
            if status == ERASED:  # perhaps by a command, which cannot empty this memory
                self.contents.forget([image_id])
            return self.contents.read(connection, image_id, stored)

    def erase(self, user: str, case_id: str, reason: str) -> None:
        """Erases a case; see `changes.erase`, also for what it raises."""
        check_ids(case_id)
        images = self._writer.do(lambda ledger: changes.erase(ledger, user, case_id, reason))
        self.contents.forget(images)
        clean(self.engine)

    def expire(self, user: str, days: float) -> int:
        """Removes kept images that are older than `days`, and returns how many."""
        images = self._writer.do(lambda ledger: expire(ledger, user, days))
        if images:
            clean(self.engine)
        return len(images)

    def statistics(self, since: float, after: int = 0) -> Iterator[queries.AnswerRow]:
        """Yields answers since a time and after a record, in the order of their records."""
        with reading(self.engine, self._file) as connection:
            yield from queries.read_answers(connection, since, after)

    def model_of(self, sha256: str) -> ModelIdentity | None:
        """A model that has answered; None if there is none with this hash."""
        with reading(self.engine, self._file) as connection:
            return queries.read_model(connection, sha256)

    def version_of(self, case: Case) -> str:
        """Number and hash of the last record about a case as it was read, `<number>:<hash>`."""
        with reading(self.engine, self._file) as connection:
            return queries.read_version(connection, case)

    def head(self) -> str:
        """Number and hash of the last record, `<number>:<hash>`."""
        with reading(self.engine, self._file) as connection:
            return ":".join(map(str, connection.execute(select(HEAD.c.number, HEAD.c.hash)).one()))

    def event(
        self, user: str, kind: str, payload: Mapping[str, object], site: str | None = None
    ) -> None:
        """Records something else, such as a login.

        Args:
            user: Who did it.
            kind: What was done, at most 32 characters; not of cases, answers or accounts.
            payload: JSON values without anything personal: it can never be erased.
            site: Of the user; None for the server's own.

        Raises:
            ValueError: The kind is one of these.
        """
        if kind in (*KINDS, *ACCOUNT_KINDS) or len(kind) > 32:
            raise ValueError(f"{kind}: not a kind of event")
        where = self._site if site is None else site
        self._writer.do(lambda ledger: ledger.append(user, kind, payload, site=where))

    def alarms(
        self, user: str, found: Sequence[Mapping[str, object]]
    ) -> list[Mapping[str, object]]:
        """Records alarms that are not recorded yet, and returns these; see `alarms.add_alarms`."""
        return self._writer.do(lambda ledger: add_alarms(ledger, user, found))

    def _hourly(self) -> None:
        """Runs in the writer's thread, which must not wait for itself."""
        if time.monotonic() < self._next_expiry:
            return
        days, self._next_expiry = self._days, time.monotonic() + _HOUR
        if days is not None:
            self._writer.do_now(lambda ledger: expire(ledger, _SERVER, days))
        clean_once(self.engine)  # also what an erasure left because readers prevented it
