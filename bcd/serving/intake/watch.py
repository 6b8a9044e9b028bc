"""Takes the images that a scanner writes to a folder.

Nothing is noted about a file but what the database has: a file stays where it is until its answer
is recorded. So a server that is killed at any point finds it again, and the hash of its content
says whether it is answered already.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from bcd.data.dicom.header import START, is_dicom
from bcd.data.frames import is_dicomdir
from bcd.serving import words
from bcd.serving.dicom import unpack
from bcd.serving.engine.turns import INTAKE, asker
from bcd.serving.errors import (
    BusyError,
    RequestError,
    TooLargeError,
    UnprocessableError,
)
from bcd.serving.intake import files
from bcd.serving.intake.files import DONE, FAILED, ChangedError, TooLongError
from bcd.serving.intake.following import Followed, brief
from bcd.serving.intake.placing import Origin, deliver, find, outcomes
from bcd.serving.records.cases import NewImage

if TYPE_CHECKING:
    from bcd.serving.services import Services

USER = "watch folder"  # has a space, so that it is the name of no user

# Times as multiples of `scanner.stable_seconds`, for a file that cannot be decoded.
_PATIENCE = 60  # it is given up after as long without a change
_EMPTY = 3600.0  # seconds, after which an empty folder is removed
_BUSY = 0.1  # seconds between looks while there is something to do
_AT_ONCE = 4  # files that are read at a time
_SIDE = 16  # pixels, of the picture by which it is seen that a file can be decoded

log = structlog.get_logger("bcd.serving.intake")


@dataclass
class Watcher:
    """Watches one folder.

    Args:
        services: Of the server.
        root: The folder.
        site: Of its images.
        count: Counts files, by what became of them: `done` or `failed`.
        clock: Seconds that only increase.

    Attributes:
        problem: Why files cannot be taken at present; empty if they can.
        hindered: Number of files and subfolders that cannot be read or moved at present.
        elsewhere: Number of files that wait for a server with another model.
    """

    services: Services
    root: Path
    site: str
    count: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    problem: str = ""
    hindered: int = 0
    elsewhere: int = 0
    _files: dict[tuple[str, ...], Followed] = field(default_factory=dict)
    _empty: dict[tuple[str, ...], float] = field(default_factory=dict)
    _busy: bool = False  # whether the last look found something to do
    _looking: float = 0.0  # seconds that it took

    @property
    def waiting(self) -> int:
        """Number of files that are not moved yet."""
        return len(self._files)

    async def run(self) -> None:
        """Watches until it is cancelled."""
        asker.set(INTAKE)
        stable = self.services.cfg.scanner.stable_seconds
        while True:
            self._busy = False
            try:
                problem = await self.step()
            except (OSError, RequestError) as error:
                problem = brief(error)
            except Exception as error:  # the next look finds what this one missed
                problem = brief(error)
                log.exception("intake_failed", source="watch", error=type(error).__name__)
            self._note(problem)
            # A large folder on a slow share is not looked through all the time.
            pause = _BUSY if self._busy else min(2.0, stable / 2)
            await asyncio.sleep(max(pause, self._looking))

    async def step(self) -> str:
        """Looks through the folder once, takes what is complete, moves what is answered.

        Returns:
            Why a file could not be taken, without a name; empty if none was hindered.

        Raises:
            OSError: The folder cannot be read.
            RequestError: The records cannot be used.
        """
        begun = time.monotonic()
        seen = await asyncio.to_thread(files.scan, self.root)
        self._looking = time.monotonic() - begun
        self._follow(seen)
        await self._settle()
        due = [each for each in self._files.values() if each.due <= self.clock()]
        room = max(0, self.services.cfg.limits.queue - self._given())
        new = [each for each in due if not each.case_id and not each.into][:room]
        turns = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._in_turn(turns, each) for each in new))
        moving = [each for each in due if each.into]
        await self._move(moving)
        self._busy = bool(new or moving)
        await asyncio.to_thread(self._remove_empty, seen.empty)
        problems = [each.problem for each in self._files.values() if each.problem]
        problems += ["a subfolder cannot be read"] * seen.unreadable
        self.hindered = len(problems)
        return "; ".join(sorted(set(problems)))

    def _given(self) -> int:
        """Number of files whose images wait for this server, or one with the same model."""
        waiting = [each for each in self._files.values() if each.case_id and not each.into]
        elsewhere = sum(each.elsewhere for each in waiting)
        if bool(elsewhere) != bool(self.elsewhere):
            advice = "a server with their case's model has to answer them" if elsewhere else ""
            log.warning("intake_other_model", site=self.site, files=elsewhere, advice=advice)
        self.elsewhere = elsewhere
        return len(waiting) - elsewhere

    def _follow(self, seen: files.Scan) -> None:
        now, stable = self.clock(), self.services.cfg.scanner.stable_seconds
        known, self._files = self._files, {}
        for found in sorted(seen.files, key=lambda each: each.parts):
            old = known.get(found.parts)
            if old is None or old.found != found:  # new, or it was written to
                old = Followed(found, now, now + stable)
            self._files[found.parts] = old

    async def _in_turn(self, turns: asyncio.Semaphore, file: Followed) -> None:
        async with turns:
            try:
                await self._take(file)
                file.fine()
            except ChangedError:
                self._restart(file)
            except TooLongError:
                most = self.services.cfg.limits.image_mb
                self._decide(file, FAILED, f"It is too large: at most {most:g} MB are accepted.")
            except (TooLargeError, UnprocessableError) as error:  # another try would not help
                self._decide(file, FAILED, error.detail)
            except FileNotFoundError:  # moved by another server, or removed
                file.due = self.clock()
            except BusyError:
                file.later(self.clock(), "")
            except (OSError, RequestError) as error:
                file.later(self.clock(), brief(error))
            except Exception as error:  # no other file has to wait because of it
                file.later(self.clock(), brief(error))
                log.exception("intake_failed", source="watch", error=type(error).__name__)

    async def _take(self, file: Followed) -> None:
        """Reads a complete file and puts its images into the queue."""
        found, limits = file.found, self.services.cfg.limits
        if len(found.parts) == 1:
            why = "It is in the watch folder itself: put it into a subfolder, one for each case."
            self._decide(file, FAILED, why)
            return
        if not found.regular:
            self._decide(file, FAILED, "It is not a regular file.")
            return
        if not found.is_named_image and not await self._begins_as_dicom(file):
            return
        most = int(limits.image_mb * 1e6)
        data = await asyncio.to_thread(files.read, self.root, found, most)
        upload = hashlib.sha256(data).hexdigest()[:32]
        origin = Origin.of(USER, self.site, os.fsencode(found.parts[0]), found.parts[0])
        uploads: tuple[str, ...] = (upload,)
        case_id = known = await asyncio.to_thread(find, self.services, origin, upload)
        if not known or is_dicom(data):  # whose uploads are known by its frames only
            name = words.file_name(found.parts[-1])
            images = await unpack(self.services, [(name, data)], [upload])
            if await self._is_half(file, images):
                return
            uploads = tuple(image.upload for image in images)
            case_id = (await asyncio.to_thread(deliver, self.services, origin, images)).case_id
        file.case_id, file.uploads = case_id, uploads

    async def _begins_as_dicom(self, file: Followed) -> bool:
        """Whether a file without the name of an image is DICOM; if not, it is failed, or waits."""
        start = await asyncio.to_thread(files.read_start, self.root, file.found, START)
        if is_dicom(start) and not is_dicomdir(file.found.parts[-1]):
            return True
        if start.strip(b"\0") or not self._wait(file):  # it may be written later
            self._decide(file, FAILED, "It is of no type that is accepted.")
        return False

    async def _is_half(self, file: Followed, images: list[NewImage]) -> bool:
        """Whether a file cannot be decoded but may be, once its writer has gone on."""
        # What stays so is recorded as unreadable, so that nobody overlooks it.
        return bool(await self._why_unreadable(images)) and self._wait(file)

    def _wait(self, file: Followed) -> bool:
        """Waits for a file's writer to go on; False if that was long enough."""
        now, stable = self.clock(), self.services.cfg.scanner.stable_seconds
        last = file.since + _PATIENCE * stable
        if now >= last:
            return False
        file.due = min(last, now + stable * 2**file.tries)
        file.tries += 1
        return True

    async def _why_unreadable(self, images: list[NewImage]) -> str:
        for image in images:
            if image.error:
                return image.error
            if image.source is not None:  # made of a frame that was decoded
                continue
            try:
                await self.services.engine.thumbnail(image.data, _SIDE)
            except UnprocessableError as error:
                return error.detail
        return ""

    async def _settle(self) -> None:
        """Finds out which files are answered."""
        given: dict[str, list[Followed]] = defaultdict(list)
        for file in self._files.values():
            if file.case_id and not file.into:
                given[file.case_id].append(file)
        for case_id, some in given.items():
            uploads = [upload for file in some for upload in file.uploads]
            found = await asyncio.to_thread(outcomes, self.services, case_id, uploads)
            for file in some:
                mine = [found[upload] for upload in file.uploads]
                states = {outcome.state for outcome in mine}
                whys = dict.fromkeys(outcome.why for outcome in mine if outcome.why)
                file.elsewhere = "elsewhere" in states
                if "again" in states:
                    self._restart(file)
                elif not states & {"waiting", "elsewhere"}:
                    self._decide(file, FAILED if whys else DONE, " ".join(whys))

    def _decide(self, file: Followed, into: str, why: str = "") -> None:
        file.into, file.why, file.due = into, why, self.clock()

    def _restart(self, file: Followed) -> None:
        """Takes a file from the beginning, unless it has gone."""
        now = self.clock()
        due = now + self.services.cfg.scanner.stable_seconds
        self._files[file.found.parts] = Followed(file.found, now, due)

    async def _move(self, decided: Iterable[Followed]) -> None:
        for file in decided:
            try:
                await asyncio.to_thread(files.move, self.root, file.found, file.into, file.why)
            except ChangedError:
                self._restart(file)
                continue
            except FileNotFoundError:  # moved by another server, or removed
                pass
            except OSError as error:
                file.later(self.clock(), brief(error))
                continue
            else:
                self.count(file.into)
            self._files.pop(file.found.parts, None)

    def _remove_empty(self, empty: Iterable[tuple[str, ...]]) -> None:
        now = self.clock()
        self._empty = {parts: self._empty.get(parts, now) for parts in empty}
        for parts, since in self._empty.items():
            if now - since >= _EMPTY:
                files.remove_empty(self.root, parts)

    def _note(self, problem: str) -> None:
        """Logs a problem when it begins and when it has ended."""
        if problem != self.problem:
            self.problem = problem
            log.warning("intake_problem", source="watch", site=self.site, problem=problem or "none")
