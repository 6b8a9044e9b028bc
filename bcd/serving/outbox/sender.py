"""Posts what waits in the outbox, in a task of each server process."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog
from starlette.concurrency import run_in_threadpool

from bcd.config.interop import FhirConfig
from bcd.errors import BcdError, ConfigError
from bcd.interop.fhir.bundle import Identifiers, device, placeholder, transaction, version_of
from bcd.interop.fhir.case import REGISTERED, ReportedCase
from bcd.serving.accounts.database import Database
from bcd.serving.certificates import fhir_context
from bcd.serving.errors import RequestError
from bcd.serving.outbox.build import number_of, read_snapshot, reported
from bcd.serving.outbox.client import (
    DeliveryError,
    FhirClient,
    Found,
    LaterError,
    RefusedError,
    StaleError,
    read_token,
)
from bcd.serving.outbox.entries import Claim, Outcome
from bcd.serving.outbox.store import Outbox
from bcd.serving.services import Services

_POLL = 1.0  # seconds between looks for changed cases
_FIRST, _LONGEST = 5.0, 3600.0  # seconds after the first failed attempt, and at most
_CONFLICTS = 5  # times that a report is read again at once
_LOOKS = 100  # Observations that are looked for before the claim is prolonged
_BUILDING = 120.0  # seconds that reading a case and writing its document may take

log = structlog.get_logger("bcd.serving.outbox")


def check_outbox(cfg: FhirConfig) -> None:
    """Refuses at start what would keep every case from being posted.

    Raises:
        BcdError: A package is missing.
        ConfigError: A certificate cannot be used, or there is no token in `fhir.token_file`.
    """
    if cfg.url is None:
        return
    try:
        import fhir.resources.R4B  # noqa: F401
        import httpx  # noqa: F401
    except ModuleNotFoundError as error:
        raise BcdError(f"fhir.url: needs {error.name}: pip install 'bcd[fhir]'") from None
    if cfg.url.startswith("https:"):
        fhir_context(cfg)
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
        self._database, self._names = Database(engine), Identifiers(base.rstrip("/"))
        self._client = FhirClient(cfg)
        self._devices: dict[str, str] = {}  # references, by the model's sha256

    def start(self) -> None:
        """Notes the first start, and takes the identifiers of then, so that none is made twice."""
        base = self.outbox.start(self._names.base)
        if base != self._names.base:
            log.warning("outbox_identifiers", made_of=base, url=self._names.base)
            self._names = Identifiers(base)

    async def run(self) -> None:
        """Posts until it is cancelled."""
        started = False
        try:
            while True:
                try:
                    if not started:
                        await run_in_threadpool(self.start)
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
        while (claim := await run_in_threadpool(self.outbox.claim)) is not None:
            tried += 1
            await self._attempt(claim)
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
                await run_in_threadpool(self.outbox.quiet, error.after)
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
        stale = "what was made was not found"
        for _ in range(_CONFLICTS):
            snapshot = await run_in_threadpool(read_snapshot, self._database, claim.case_id)
            if case is None or case.version != snapshot.version:
                case = await reported(self._services, snapshot)
            outcome = Outcome(snapshot.case.version, self._client.base, contents=not case.erased)
            try:
                found = found or await self._find(case)
                if found is None and case.erased and not await self._left(claim, case):
                    await run_in_threadpool(self.outbox.skip, claim, outcome)  # nothing is there
                    return
                known = "" if found is None else version_of(found.resource, self._names)
                if known == case.version and not claim.asked and claim.sent >= outcome.version:
                    await run_in_threadpool(self.outbox.skip, claim, outcome)  # recorded before
                    return
                found = found or await self._client.create(placeholder(case, self._names))
                if found is None:  # another process has just made it
                    continue
                if known != case.version or claim.asked:
                    if await self._is_later(found, case):
                        found = None
                        continue
                    if not await self._post(claim, case, found):
                        return  # another process has the case
            except StaleError as error:
                found, stale = None, error.reason
                continue
            place = f"DiagnosticReport/{found.id}"
            await run_in_threadpool(self.outbox.delivered, claim, replace(outcome, place=place))
            return
        raise LaterError(f"{stale}, each time that the report was read")

    async def _find(self, case: ReportedCase) -> Found | None:
        found = await self._client.find("DiagnosticReport", self._names.of("case", case.id))
        if len(found) > 1:
            raise RefusedError("the server has several reports with the identifier of this case")
        return found[0] if found else None

    async def _is_later(self, found: Found, case: ReportedCase) -> bool:
        """Whether the server has a later version, which another process has posted just now.

        Raises:
            RefusedError: It has one that these records do not have, as after a restore: the number
                alone would not tell, since other records may have taken it since.
        """
        known = version_of(found.resource, self._names)
        if not known:
            return False
        theirs = await run_in_threadpool(number_of, self._database, case.id, known)
        if theirs is None:
            raise RefusedError("the server has a version of this case that is not in these records")
        return theirs > int(case.version.partition(":")[0])

    async def _left(self, claim: Claim, case: ReportedCase) -> bool:
        """Whether the server has contents of an erased case whose report is gone or empty."""
        if await self._has_document(case):
            return True
        for number, image in enumerate(case.images, start=1):
            if await self._client.find("Observation", self._names.of("image", image.id)):
                return True
            if number % _LOOKS == 0:
                await run_in_threadpool(self.outbox.renew, claim)
        return False

    async def _has_document(self, case: ReportedCase) -> bool:
        """Whether the server has a document; of a signed case it may not have been posted."""
        named = self._names.of("document", case.id)
        return case.documented and bool(await self._client.find("DocumentReference", named))

    async def _device(self, case: ReportedCase) -> str:
        """Reference to the model's Device, which is made if the server has none."""
        key = case.model.sha256
        if key not in self._devices:
            identifier = self._names.of("model", key)
            found = await self._client.find("Device", identifier)
            if not found:
                # One process at a time: of two requests at the same time, each of which finds none,
                # some servers let both make one.
                until = await run_in_threadpool(self.outbox.begin_device)
                if until is None:
                    raise LaterError("the model's Device is being made, or may still be")
                try:
                    await self._client.create(device(case, self._names))
                except DeliveryError as error:
                    if error.undone:
                        await run_in_threadpool(self.outbox.end_device, until)
                    raise
                found = await self._client.find("Device", identifier)
                if not found:
                    raise LaterError("the model's Device was made and is not found")
                # Not if this failed without an answer: the request may be carried out late.
                await run_in_threadpool(self.outbox.end_device, until)
            self._devices[key] = f"Device/{min(each.id for each in found)}"
        return self._devices[key]

    async def _post(self, claim: Claim, case: ReportedCase, found: Found) -> bool:
        """Posts a case; False if another process has it now."""
        model = ""
        known = case.model.sha256 in self._devices
        if not case.erased:
            model = await self._device(case)
        else:
            empty = found.resource.get("status", REGISTERED) == REGISTERED  # no status: just made
            left = await self._left(claim, case) if empty else True
            images = case.images if left else ()
            case = replace(case, images=images, documented=await self._has_document(case))
        here = "" if case.erased else self._client.base
        if not await run_in_threadpool(self.outbox.renew, claim, here):
            return False
        try:
            bundle = await asyncio.to_thread(
                transaction, case, self._names, self._client.base, found.id, found.etag, model
            )
        except ValueError as error:  # of validation, whose text quotes what it refuses
            raise RefusedError(f"no valid resources ({type(error).__name__})") from None
        try:
            await self._client.post(bundle)
        except DeliveryError as error:
            self._devices.clear()  # it may be gone
            if isinstance(error, RefusedError) and known and not case.erased:
                raise StaleError(error.reason) from None
            raise
        return True


async def post_reports(services: Services) -> None:
    """Posts until it is cancelled, if `fhir.url` is set."""
    if services.cfg.fhir.url is not None:
        await Sender(services).run()
