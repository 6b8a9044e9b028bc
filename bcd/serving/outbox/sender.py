"""Posts what waits in the outbox, in a task of each server process."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
from starlette.concurrency import run_in_threadpool

from bcd.config.interop import FhirConfig
from bcd.errors import BcdError, ConfigError
from bcd.interop.fhir.bundle import Identifiers, placeholder, search, transaction, version_of
from bcd.interop.fhir.case import ReportedCase
from bcd.serving.accounts.database import Database
from bcd.serving.errors import RequestError
from bcd.serving.outbox.build import read_snapshot, reported
from bcd.serving.outbox.client import (
    FhirClient,
    Found,
    LaterError,
    RefusedError,
    StaleError,
    read_token,
)
from bcd.serving.outbox.store import Claim, Outbox
from bcd.serving.services import Services

_POLL = 1.0  # seconds between looks for changed cases
_FIRST, _LONGEST = 5.0, 3600.0  # seconds after the first failed attempt, and at most
_CONFLICTS = 5  # times that a report is read again at once
_BUILDING = 120.0  # seconds that reading a case and writing its document may take

log = structlog.get_logger("bcd.serving.outbox")


def check_outbox(cfg: FhirConfig) -> None:
    """Refuses at start what would keep every case from being posted.

    Raises:
        BcdError: A package is missing.
        ConfigError: There is no token in `fhir.token_file`.
    """
    if cfg.url is None:
        return
    try:
        import fhir.resources.R4B  # noqa: F401
        import httpx  # noqa: F401
    except ModuleNotFoundError as error:
        raise BcdError(f"fhir.url: needs {error.name}: pip install 'bcd[fhir]'") from None
    if cfg.token_file is not None:
        try:
            read_token(Path(cfg.token_file))
        except (OSError, ValueError):
            raise ConfigError(
                f"fhir.token_file={cfg.token_file}: must be a file with one token, readable by "
                "the server"
            ) from None


class Sender:
    """Posts cases one after the other.

    Args:
        services: Of the server; `fhir.url` is set.
        clock: See `Outbox`.
        jitter: A number from 0 to 1 at each call, by which waits differ.
    """

    def __init__(
        self,
        services: Services,
        clock: Callable[[], float] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        cfg, base = services.cfg.fhir, services.cfg.url
        assert base is not None  # checked with the configuration
        lease = 2 * cfg.timeout_seconds + _BUILDING
        engine = services.records.engine
        owner = secrets.token_hex(16)
        self.outbox = Outbox(engine, owner, cfg.delay_seconds, lease, clock)
        self._services, self._jitter = services, jitter
        self._time, self._quiet_until = clock or time.monotonic, 0.0
        self._database, self._names = Database(engine), Identifiers(base)
        self._client = FhirClient(cfg)

    async def run(self) -> None:
        """Posts until it is cancelled."""
        started = False
        try:
            while True:
                try:
                    if not started:
                        await run_in_threadpool(self.outbox.start)
                        started = True
                    await self.post_due()
                except RequestError:  # the records cannot be used at present, which is logged
                    pass
                except Exception:
                    log.exception("outbox_failed")
                await asyncio.sleep(_POLL)
        finally:
            with suppress(RequestError):  # else others wait until the lease ends
                self.outbox.release()
            await self._client.close()

    async def post_due(self) -> int:
        """Posts every case that is due now, once; returns how many it tried."""
        await run_in_threadpool(self.outbox.collect)
        tried = 0
        if self._quiet_until > self._time():
            return tried
        while (claim := await run_in_threadpool(self.outbox.claim)) is not None:
            tried += 1
            await self._attempt(claim)
            if self._quiet_until > self._time():
                break
        return tried

    async def close(self) -> None:
        """Closes connections, if `run` was not called."""
        await self._client.close()

    async def _attempt(self, claim: Claim) -> None:
        """Posts a case and notes what became of it."""
        try:
            await self._deliver(claim)
        except RefusedError as error:
            log.error("outbox_refused", case=claim.case_id, reason=error.reason)
            await run_in_threadpool(self.outbox.fail, claim, error.reason)
        except LaterError as error:
            wait = max(self._wait(claim), error.after or 0.0)
            log.warning("outbox_later", case=claim.case_id, reason=error.reason)
            await run_in_threadpool(self.outbox.postpone, claim, wait, error.reason)
            if error.after:  # the server wants to be left alone, whichever case it is
                self._quiet_until = self._time() + error.after
        except RequestError as error:  # such as records that are gone; the lease ends by itself
            with suppress(RequestError):
                await run_in_threadpool(self.outbox.postpone, claim, self._wait(claim), error.title)
        except Exception as error:  # one case must not keep the others
            log.exception("outbox_case_failed", case=claim.case_id)
            reason = f"a fault of this server ({type(error).__name__}): see its log"
            await run_in_threadpool(self.outbox.postpone, claim, self._wait(claim), reason)

    def _wait(self, claim: Claim) -> float:
        """Seconds until the next attempt: twice as long each time, less up to a half."""
        longest = min(_LONGEST, _FIRST * 2.0 ** min(claim.attempts - 1, 20))
        return longest * (1 - self._jitter() / 2)

    async def _deliver(self, claim: Claim) -> None:
        """Posts a case until the server has its present version.

        Raises:
            DeliveryError: It was not delivered.
        """
        case: ReportedCase | None = None
        found: Found | None = None
        for _ in range(_CONFLICTS):
            snapshot = await run_in_threadpool(read_snapshot, self._database, claim.case_id)
            version = snapshot.case.version
            if case is None or case.version != snapshot.version:
                case = await reported(self._services, snapshot)
            if case.erased and claim.fresh:  # the server has never heard of it
                await run_in_threadpool(self.outbox.skip, claim, version)
                return
            found = found or await self._find(case)
            if found is None:  # just made, or not yet to be found
                continue
            known = version_of(found.report, self._names)
            if known != case.version:
                if await self._is_later(known, case):
                    found = None
                    continue
                if not await run_in_threadpool(self.outbox.renew, claim):
                    return  # another process has the case
                try:
                    await self._post(case, found)
                except StaleError:
                    found = None
                    continue
            place = f"DiagnosticReport/{found.id}"
            await run_in_threadpool(self.outbox.delivered, claim, version, place)
            return
        raise LaterError("the server has changed the report each time that it was read")

    async def _find(self, case: ReportedCase) -> Found | None:
        identifier = self._names.of("case", case.id)
        query = search(identifier)
        found = await self._client.find(query, identifier)
        if found is not None:
            return found
        with suppress(StaleError):  # another process has just made it
            return await self._client.create(query, placeholder(case, self._names))
        return None

    async def _is_later(self, known: str, case: ReportedCase) -> bool:
        """Whether the server has a later version, which another process has posted just now.

        Raises:
            RefusedError: It has one that these records do not have, such as after a restore.
        """
        theirs, ours = (int(each.partition(":")[0] or 0) for each in (known, case.version))
        if theirs < ours:
            return False
        now = await run_in_threadpool(read_snapshot, self._database, case.id)
        if theirs == ours or now.case.version < theirs:
            raise RefusedError(f"the server has version {theirs} of this case, from other records")
        return True

    async def _post(self, case: ReportedCase, found: Found) -> None:
        try:
            bundle = await asyncio.to_thread(
                transaction, case, self._names, self._client.base, found.id, found.etag
            )
        except ValueError as error:  # of validation, whose text quotes what it refuses
            raise RefusedError(f"no valid resources ({type(error).__name__})") from None
        await self._client.post(bundle)


async def post_reports(services: Services) -> None:
    """Posts until it is cancelled, if `fhir.url` is set."""
    if services.cfg.fhir.url is not None:
        await Sender(services).run()
