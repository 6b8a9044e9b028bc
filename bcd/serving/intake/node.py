"""A DICOM node: other systems send it images by C-STORE.

It runs in threads of pynetdicom. Of what arrives, only the messages' commands are parsed here;
data sets go to the reading processes as they are. An object is answered with success when its
images are in the database, so that its sender may forget it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from bcd.data.dicom.frames import SYNTAXES
from bcd.data.dicom.parsing import SOP_CLASSES
from bcd.serving.errors import RequestError
from bcd.serving.intake.connections import DicomServer, hang_up
from bcd.serving.intake.storing import BUSY, STORED, Faults, Reply, store

if TYPE_CHECKING:
    from bcd.config.interop import DicomNodeConfig
    from bcd.serving.services import Services

_ASSOCIATIONS = 8  # that may be open; a further sender is told to come again
_PDU = 1 << 16  # bytes of one, as offered to senders
_LARGEST_PDU = 1 << 20  # bytes; a request for an association may be longer than `_PDU`
_SLACK = 1 << 20  # bytes of a message besides its data set
_IDLE = 30.0  # seconds without a message, after which an association ends
_LAST = 0.1  # seconds for the last replies, when it stops
_STORING = 120.0  # seconds of one object, the time in which images are read included

log = structlog.get_logger("bcd.serving.intake")


class Node:
    """Listens from the start, so that a port in use is noticed early, and answers after `start`.

    Args:
        cfg: Address and AE title.
        titles: AE titles that may send, and the site of each; none for all, of the own site.
        own: Name of the own site.
        most: Bytes of an object, at most.
        tls: Of the server's side; None for none.

    Attributes:
        name: AE title, address and port.
        encrypted: Whether it speaks TLS, and nothing else.

    Raises:
        OSError: The address cannot be used.
    """

    def __init__(
        self,
        cfg: DicomNodeConfig,
        titles: Mapping[str, str],
        own: str,
        most: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        assert cfg.port is not None
        _silence()
        self._titles, self._own, self._most = titles, own, most
        self._services: Services | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count: Callable[[str], None] = _nothing
        self._stopping = False
        self._budgets: WeakKeyDictionary[Any, _Budget] = WeakKeyDictionary()
        self._running: set[Future[Reply]] = set()
        self._faults = Faults()
        server = _entity(cfg, titles).make_server(
            (cfg.host, cfg.port),
            ssl_context=tls,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._opened),
                (evt.EVT_C_ECHO, self._echo),
                (evt.EVT_C_STORE, self._store),
            ],
            server_class=DicomServer,
        )
        assert isinstance(server, DicomServer)
        self.encrypted = tls is not None
        self._server = server
        self._server.ae._servers.append(server)  # which its shutdown removes again
        self.name = f"{cfg.ae_title}@{cfg.host}:{server.server_address[1]}"

    @property
    def alive(self) -> bool:
        """Whether it takes associations."""
        return not self._stopping and self._thread.is_alive()

    def start(self, services: Services, count: Callable[[str], None]) -> None:
        """Begins to answer; call it in the event loop that is to do the work.

        Args:
            services: Of the server.
            count: Counts objects, by what became of them.
        """
        self._services, self._count, self._loop = services, count, asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="dicom node", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Takes nothing more, lets what is being stored end, and ends associations."""
        self._stopping = True
        self._server.shutdown()
        self._server.hang_up()
        limit = 0.0 if self._services is None else self._services.cfg.limits.stop_seconds
        last = time.monotonic() + limit
        while self._running and time.monotonic() < last:
            time.sleep(0.01)
        time.sleep(_LAST)
        associations = self._server.active_associations
        for association in associations:
            if association.is_established:
                association.abort(block=False)
        time.sleep(_LAST)
        for association in associations:  # also those of which nothing more comes
            hang_up(association.dul.socket)

    def close(self) -> None:
        """Stops listening, also if it was never started."""
        self._server.server_close()

    def _opened(self, event: evt.Event) -> None:
        connection: Any = event.assoc.dul.socket
        budget = _Budget(connection.recv, self._most + _SLACK)
        self._budgets[event.assoc] = budget
        connection.socket.settimeout(_IDLE)
        connection.recv = budget.recv

    def _echo(self, event: evt.Event) -> int:
        self._budgets[event.assoc].refill()
        return STORED

    def _store(self, event: evt.Event) -> Dataset:
        """Answers a C-STORE request; runs in the association's thread."""
        self._budgets[event.assoc].refill()
        try:
            reply = self._reply(event)
        except Exception as error:  # nothing of it is in the log: it may quote the object
            log.error("intake_failed", source="dicom", error=type(error).__name__)
            reply = Reply(BUSY, "the server has failed")  # so its sender keeps the object
        self._count(reply.outcome)
        status = Dataset()
        status.Status = reply.status
        if reply.comment:
            status.ErrorComment = reply.comment[:64]
        if reply.status != STORED:
            log.warning("intake_refused", source="dicom", status=f"{reply.status:04X}")
        return status

    def _reply(self, event: evt.Event) -> Reply:
        if self._stopping or self._loop is None or self._services is None:
            return Reply(BUSY, "the server is stopping")
        site = self._titles.get(str(event.assoc.requestor.ae_title).strip(), self._own)
        request: Any = event.request
        uid = str(request.AffectedSOPInstanceUID)
        work = store(self._services, self._faults, site, uid, event.encoded_dataset())
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._running.add(running)
        try:
            return running.result(_STORING)
        except RequestError as error:
            return Reply(BUSY, error.detail)
        except (FutureTimeoutError, CancelledError):
            running.cancel()
            return Reply(BUSY, "no answer in time")
        finally:
            self._running.discard(running)


class _Budget:
    """Limits the bytes of one message, as pynetdicom would hold any number in memory.

    Args:
        recv: Reads so many bytes of the connection.
        most: Bytes until `refill`.
    """

    def __init__(self, recv: Callable[[int], bytearray], most: int) -> None:
        self._recv, self._most, self._left = recv, most, most

    def recv(self, count: int) -> bytearray:
        """Reads bytes.

        Raises:
            OSError: There would be too many; pynetdicom then ends the association.
        """
        self._left -= count
        if count > _LARGEST_PDU or self._left < 0:
            raise OSError("too many bytes")
        return self._recv(count)

    def refill(self) -> None:
        """Begins a new message."""
        self._left = self._most


def _entity(cfg: DicomNodeConfig, titles: Mapping[str, str]) -> AE:
    entity = AE(cfg.ae_title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(titles)
    entity.maximum_associations = _ASSOCIATIONS
    entity.maximum_pdu_size = _PDU
    entity.network_timeout = _IDLE
    entity.acse_timeout = entity.dimse_timeout = _IDLE
    entity.add_supported_context(Verification)
    for uid in SOP_CLASSES:
        entity.add_supported_context(uid, list(SYNTAXES))
    return entity


def _silence() -> None:
    """Libraries quote objects and commands when they log, warn or fail: here they print nothing."""
    _config.LOG_HANDLER_LEVEL = "none"
    for name in ("pynetdicom", "pydicom"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
    for module in ("pynetdicom", "pydicom"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?$")
    if getattr(threading.excepthook, "func", None) is not _thread_failed:
        threading.excepthook = functools.partial(_thread_failed, threading.excepthook)


def _thread_failed(other: Callable[[Any], object], failure: Any) -> None:
    """Ends the association of a thread that has failed, such as for a command that is damaged."""
    thread = failure.thread
    if not isinstance(thread, Association | DULServiceProvider):
        other(failure)
        return
    log.warning("intake_failed", source="dicom", error=failure.exc_type.__name__)
    association = thread if isinstance(thread, Association) else thread.assoc
    hang_up(association.dul.socket)
    association.dul.kill_dul()
    association._kill = True


def _nothing(_: str) -> None:
    """Counts nothing."""
