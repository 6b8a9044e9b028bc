"""Connections of the DICOM node, encrypted if there is a certificate."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any

import structlog
from pynetdicom.transport import ThreadedAssociationServer

from bcd.serving.certificates import kind_of

_MOST = 16  # associations, also before they are asked for; further connections are closed unread
_SHAKING = 64  # connections that shake hands; for a further one the oldest is closed
_HANDSHAKE = 10.0  # seconds of TLS's, all of it
_QUIET = 10.0  # seconds between two lines of the log about connections that were closed for others

log = structlog.get_logger("bcd.serving.intake")


class DicomServer(ThreadedAssociationServer):
    """Bounds connections.

    pynetdicom would shake hands in the loop that accepts connections, where a client that says
    nothing would keep all others out. Here the thread of each connection does it, and only those
    whose certificate is good take places of associations.
    """

    daemon_threads = True

    def __init__(self, *args: Any, **options: Any) -> None:
        self._shaking: dict[socket.socket, None] = {}  # in the order in which they came
        self._lock = threading.Lock()
        self._crowded, self._told = 0, -_QUIET  # connections since the last line, and when it was
        super().__init__(*args, **options)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts a connection; nothing is read or written."""
        assert isinstance(self.socket, socket.socket)
        request, address = self.socket.accept()
        if self.ssl_context is not None:
            request = self.ssl_context.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
        return request, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts the thread of a connection."""
        if isinstance(request, ssl.SSLSocket):
            with self._lock:
                if len(self._shaking) >= _SHAKING:
                    _shut_down(oldest := next(iter(self._shaking)))
                    del self._shaking[oldest]
                self._shaking[request] = None
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shakes hands and starts the association."""
        if isinstance(request, ssl.SSLSocket) and not self._shaken(request):
            return
        with self._lock:  # one after the other, so that they count each other
            self._shaking.pop(request, None)
            if len(self.active_associations) < _MOST:
                super().process_request_thread(request, client_address)
                return
        self.shutdown_request(request)

    def hang_up(self) -> None:
        """Closes connections that shake hands."""
        with self._lock:
            shaking = list(self._shaking)
        for each in shaking:
            _shut_down(each)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing, unlike the standard library's."""
        log.warning("intake_failed", source="dicom", error="connection")

    def _shaken(self, request: ssl.SSLSocket) -> bool:
        try:
            request.settimeout(_HANDSHAKE)
            request.do_handshake()
        except (OSError, ValueError) as error:
            with self._lock:
                if request in self._shaking:
                    del self._shaking[request]
                    log.warning("intake_failed", source="dicom", error="tls", reason=kind_of(error))
                else:
                    self._tell_crowded()
            self.shutdown_request(request)
            return False
        return True

    def _tell_crowded(self) -> None:
        """Logs how many were closed for others, but not each: clients could fill the log."""
        self._crowded += 1
        if (now := time.monotonic()) >= self._told + _QUIET:
            log.warning(
                "intake_failed", source="dicom", error="tls", reason="crowded", count=self._crowded
            )
            self._crowded, self._told = 0, now


def hang_up(connection: Any) -> None:
    """Closes the connection of an association, so that the thread that reads from it ends."""
    _shut_down(getattr(connection, "socket", None))


def _shut_down(connection: Any) -> None:
    with suppress(OSError, TypeError):  # closed already, or none
        # Not its own method, which would end TLS first, so that what is sent just then is plain.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
