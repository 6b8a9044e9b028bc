"""A folder of predictions that grows part by part, so that a run can be killed and continued."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bcd.console import say
from bcd.data.items import Item
from bcd.errors import BcdError
from bcd.evaluation.predictions import Prediction
from bcd.inference.batch.manifest import (
    Manifest,
    Names,
    Part,
    find_change,
    manifest_name,
    read_manifest,
)
from bcd.inference.batch.parts import encode_rows
from bcd.inference.batch.shards import Shard
from bcd.inference.batch.tally import Tally
from bcd.storage import PART, file_sha256, replacing

_OTHER = "give the settings and inputs that it began with, or another output=<folder>"

_RESTORE = "restore it, or give another output=<folder>"


class PartsFolder:
    """The parts of one shard, and its manifest.

    Use it as a context: while it is open, no other process can write the same shard.

    Args:
        folder: Where the parts are; it is created.
        shard: Which share of the images they have.
        form: `csv` or `parquet`.
        part_rows: Number of rows of each part but the last.
        model: What the manifest says about the model.
        settings: Everything else that determines the rows.

    Attributes:
        manifest: What is there.

    Raises:
        BcdError: Another process writes it, it cannot be written, it was begun with another model
            or other settings, or a part of it has changed.
    """

    def __init__(
        self,
        folder: Path,
        shard: Shard,
        form: str,
        part_rows: int,
        model: dict[str, Any],
        settings: dict[str, Any],
    ) -> None:
        self._folder, self._shard, self._form, self._part_rows = folder, shard, form, part_rows
        self._file = folder / manifest_name(shard)
        self.manifest = Manifest(model, settings)
        self._names = Names()
        self._waiting: list[Prediction] = []
        self._safe = 0  # rows that the manifest on disk has
        self._locked = contextlib.ExitStack()

    def __enter__(self) -> PartsFolder:
        new = not self._folder.exists()
        lock = self._folder / f".{self._file.name}.lock"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._acquire(lock)
        except OSError as error:
            raise self._failure(error) from error
        try:
            self._open()
        except BaseException:
            self._locked.close()
            if new:  # nothing but the lock is in it
                with contextlib.suppress(OSError):
                    lock.unlink(missing_ok=True)
                    self._folder.rmdir()
            raise
        return self

    def _acquire(self, file: Path) -> None:
        """Locks the folder as far as that is possible, so that no other process writes the same."""
        try:
            import filelock
        except ImportError:  # it is not among the few packages that prediction needs
            say("warning: filelock is not installed: do not start the same shard twice")
            return
        lock = filelock.FileLock(file)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise self._error(f"another process is writing {self._file.name} there") from error
        except NotImplementedError:
            say("warning: this file system has no locks: do not start the same shard twice")
        self._locked.callback(lock.release)

    def _open(self) -> None:
        found = read_manifest(self._file)
        for other in sorted(self._folder.glob("manifest*.json")):
            self._check_beside(other)
        if found is not None:
            self._check_same(found, self._file, own=True)
            self._check_parts(found)
            self.manifest = found
        elif any(self._folder.glob(f"part{self._shard.suffix}-[0-9]*.*")):
            raise self._error(f"has parts but no {self._file.name}; give another output=<folder>")
        if self.manifest.finished:
            return
        for name in (f".part{self._shard.suffix}-*{PART}", f".{self._file.name}.*{PART}"):
            for leftover in self._folder.glob(name):
                leftover.unlink(missing_ok=True)
        self.manifest.begin()
        self._write_manifest()

    def _check_beside(self, other: Path) -> None:
        """Refuses a folder that has other shards of something else."""
        match = re.fullmatch(r"manifest(?:-\d+-of-(\d+))?\.json", other.name)
        if match is None or other == self._file:
            return
        if int(match[1] or 1) != self._shard.count:
            raise self._error(
                f"has {other.name}, so it cannot take shard {self._shard}; "
                "give another output=<folder>"
            )
        found = read_manifest(other)
        if found is not None:
            self._check_same(found, other, own=False)

    def _check_same(self, found: Manifest, file: Path, own: bool) -> None:
        before, now = ({**m.settings} for m in (found, self.manifest))
        if not own:
            before.pop("shard", None)
            now.pop("shard", None)
        change = find_change(found.model, self.manifest.model, "the model's ")
        change = change or find_change(before, now, "")
        if change:
            raise self._error(f"{change} ({file.name}): {_OTHER}")

    def _check_parts(self, found: Manifest) -> None:
        for part in found.parts:
            file = self._folder / part.file
            try:
                same = file_sha256(file) == part.sha256
            except OSError as error:
                why = f"{part.file} cannot be read ({error.strerror})"
                raise self._error(f"{why}; {_RESTORE}") from error
            if not same:
                raise self._error(f"{part.file} has changed since it was written; {_RESTORE}")

    def pass_over(self, items: Iterator[Item]) -> None:
        """Takes the images that have rows already from an iterator.

        Raises:
            BcdError: They are not the images that were there when the rows were written.
        """
        for part in self.manifest.parts:
            for _ in range(part.rows):
                item = next(items, None)
                if item is None:
                    raise self._error(f"there are fewer images than before: {_OTHER}")
                self._names.add(item.name)
            if self._names.digest() != part.names:
                raise self._error(f"{part.file} has rows of other images: {_OTHER}")
        if self.manifest.finished and next(items, None) is not None:
            raise self._error(f"it is finished, and there are more images now: {_OTHER}")

    def write(
        self,
        batches: Iterable[list[Prediction]],
        tally: Tally,
        each: Callable[[Prediction], object] | None,
    ) -> None:
        """Writes predictions, part by part, and notes at the end that these are all.

        Args:
            batches: Predictions of the images after those that have rows.
            tally: Counts over the rows that are there; the others are added.
            each: Called with every prediction before its part counts, so that nothing it makes is
                missing after a kill; it may then be called with the same ones again.

        Raises:
            BcdError: A part cannot be written.
        """
        try:
            for batch in batches:
                self._waiting += batch
                while len(self._waiting) >= self._part_rows:
                    self._write_part(tally, each)
            if self._waiting:
                self._write_part(tally, each)
            self.manifest.tally = tally.to_plain()
            self.manifest.finished = True
            self._write_manifest()
        except BaseException:
            say(f"{self._safe} rows are in {self._folder}; the same command continues")
            raise

    def _write_part(self, tally: Tally, each: Callable[[Prediction], object] | None) -> None:
        rows = self._waiting[: self._part_rows]
        if each is not None:
            for row in rows:
                each(row)
        number = len(self.manifest.parts) + 1
        name = f"part{self._shard.suffix}-{number:06d}.{self._form}"
        data = encode_rows(rows, tally.classes, self._form)
        try:
            with replacing(self._folder / name, durable=True) as stream:
                stream.write(data)
        except OSError as error:
            raise self._failure(error) from error
        for row in rows:
            self._names.add(row.path)
            tally.add(row)
        sha256 = hashlib.sha256(data).hexdigest()
        self.manifest.parts.append(Part(name, len(rows), sha256, self._names.digest()))
        self.manifest.tally = tally.to_plain()
        self._write_manifest()
        self._waiting = self._waiting[self._part_rows :]

    def _write_manifest(self) -> None:
        try:
            self.manifest.write(self._file)
            self._safe = self.manifest.rows
        except OSError as error:
            raise self._failure(error) from error

    def _error(self, why: str) -> BcdError:
        return BcdError(f"output={self._folder}: {why}")

    def _failure(self, error: OSError) -> BcdError:
        return self._error(
            f"cannot be written ({error.strerror or error}); free some space or change the "
            "permissions there, or give another output=<folder>"
        )

    def __exit__(self, *_: object) -> None:
        self._locked.close()
