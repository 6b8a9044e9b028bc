"""Answers jobs: one at a time at least, more of them in the room that requests leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import structlog

from bcd.data.items import Fault
from bcd.serving.answers import ImageAnswer, ModelIdentity
from bcd.serving.engine.making import NO_ANSWER, unanswered
from bcd.serving.engine.turns import JOBS, asker
from bcd.serving.errors import RequestError, StorageFullError, UnavailableError
from bcd.serving.jobs.leases import Job, Lease, Leases
from bcd.serving.services import Services

T = TypeVar("T")
Answered = list[tuple[Job, ImageAnswer]]

MOST = 32  # jobs of one lease
_HOUR = 3600.0  # seconds
_LONGEST_PAUSE = 10.0  # seconds between tries while the records cannot be used

log = structlog.get_logger(__name__)


async def work(services: Services) -> None:
    """Answers jobs until it is cancelled; then it gives back what it has not answered."""
    await Worker(services).run()


class Worker:
    """Takes jobs, has the engine answer them, and records the answers.

    Args:
        services: Of the server.
    """

    def __init__(self, services: Services) -> None:
        self._cfg, self._engine = services.cfg, services.engine
        engine = services.engine
        self._leases = Leases(
            services.records, engine.identity.sha256, engine.ways, services.cfg.jobs
        )
        self._keeps = services.records.contents.keep
        self._held: set[str] = set()  # leases whose jobs are not all recorded
        self._started = False
        self._next_forgetting = 0.0

    async def run(self) -> None:
        """See `work`."""
        asker.set(JOBS)
        pause = usual = self._cfg.jobs.poll_seconds
        try:
            while True:
                busy = False
                try:
                    busy, pause = await self.step(), usual
                except Exception as error:  # nothing is lost: it is tried again
                    known = isinstance(error, RequestError)
                    log.warning("jobs_wait", error=type(error).__name__, exc_info=not known)
                    pause = max(usual, min(2 * pause, _LONGEST_PAUSE))
                if not busy:
                    await asyncio.sleep(pause)
        finally:
            with contextlib.suppress(RequestError):  # then others wait for the lease to end
                await self._give_back()

    async def step(self) -> bool:
        """Answers the jobs of one lease; False if there was nothing to do.

        Raises:
            RequestError: The records cannot be used.
        """
        await self._before()
        if self._engine.ready():
            return False
        # One at a time however many requests there are: they would never leave room by themselves.
        room = max(1, self._cfg.limits.queue // 2 - self._engine.waiting)
        lease = await _whole(self._take, min(room, MOST))
        if lease is None:
            return False
        answers = await self._answers(lease)
        await _whole(self._record, lease, answers)
        if len(answers) < len(lease.jobs):
            return False
        self._held.discard(lease.owner)
        return True

    async def _before(self) -> None:
        if not self._started:
            await _whole(self._leases.start)
            self._started = True
            if self._leases.shared and not self._keeps:
                log.warning("images_not_kept", advice="images.keep=true: else no other server of "
                            "the database can show the images that this one answers")  # fmt: skip
        await self._give_back()
        now = asyncio.get_running_loop().time()
        if now >= self._next_forgetting:
            await _whole(self._leases.forget)
            self._next_forgetting = now + _HOUR

    async def _give_back(self) -> None:
        for owner in list(self._held):
            await _whole(self._leases.give_back, owner)
            self._held.discard(owner)

    def _take(self, most: int) -> Lease | None:
        """Runs in a thread, which notes the lease also if nobody waits for it any more."""
        lease = self._leases.take(most)
        if lease is not None:
            self._held.add(lease.owner)
        return lease

    async def _answers(self, lease: Lease) -> dict[str, ImageAnswer]:
        """The answers by job, without those that the engine has no room or time for."""
        answering = asyncio.gather(*map(self._answer, lease.jobs))
        try:
            while not answering.done():
                await asyncio.wait([answering], timeout=self._cfg.jobs.lease_seconds / 3)
                if not answering.done():
                    with contextlib.suppress(RequestError):  # what counts is who has it at the end
                        await _whole(self._leases.renew, lease.owner)
            found = answering.result()
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)  # else asyncio reports it
        return {job.id: one for job, one in zip(lease.jobs, found, strict=True) if one is not None}

    async def _answer(self, job: Job) -> ImageAnswer | None:
        engine = self._engine
        if job.refused:
            return _unanswered(job, job.refused, engine.identity)
        if job.image.error:
            return replace(engine.refuse(job.image, job.site), sha256=job.sha256)
        try:  # one by one, so that those that are answered in time are not lost with others
            (answer,) = await engine.answer([job.image.data], job.site)
            return answer
        except RequestError:
            return None
        except Exception:  # it would hold up all others if it were tried again and again
            log.exception("job_failed")
            return _unanswered(job, "the server failed on this image", engine.identity)

    def _record(self, lease: Lease, answers: Mapping[str, ImageAnswer]) -> None:
        """Runs in a thread."""
        cases: defaultdict[tuple[str, ...], Answered] = defaultdict(list)
        again: list[Job] = []
        for job in lease.jobs:
            if job.id in answers:
                if isinstance(answers[job.id].error, Fault) and not job.last:
                    again.append(job)
                    continue
                key = job.user, job.case_id, job.model_sha256
                cases[key].append((job, answers[job.id]))
        if again:
            self._leases.postpone(lease.owner, again)
        for answered in cases.values():
            if not self._recorded(lease.owner, answered):
                for each in answered:  # the others are not at fault
                    self._recorded(lease.owner, [each])

    def _recorded(self, owner: str, answered: Answered) -> bool:
        """Records answers; False if the case does not take one of several.

        A single one that it does not take has failed.
        """
        try:
            self._leases.record(owner, answered)
        except (StorageFullError, UnavailableError):
            raise
        except Exception as error:
            if len(answered) > 1:
                return False
            why = "The server failed when it recorded the answer."
            if isinstance(error, RequestError):
                why = error.detail
            else:
                log.exception("job_failed")
            self._leases.fail(owner, answered[0][0], why)
        return True


def _unanswered(job: Job, why: str, identity: ModelIdentity) -> ImageAnswer:
    found = unanswered(b"", why, NO_ANSWER, identity, 0.0)
    return replace(found, sha256=job.sha256, model_sha256=job.model_sha256)


async def _whole(function: Callable[..., T], *args: object) -> T:
    """Runs a function in a thread; a task that is cancelled ends after the function does."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
