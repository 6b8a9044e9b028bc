"""Connections of the DICOM node, encrypted if there is a certificate."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from typing import Any

import structlog
from pynetdicom.transport import ThreadedAssociationServer

from bcd.serving.certificates import kind_of

_MOST = 16  # connections, beyond which further ones are closed unread
_HANDSHAKE = 10.0  # seconds of TLS's, all of it

log = structlog.get_logger("bcd.serving.intake")


class DicomServer(ThreadedAssociationServer):
    """Closes connections beyond a number unread.

    pynetdicom would shake hands in the loop that accepts connections, where a client that says
    nothing would keep all others out. Here the thread of each connection does it.
    """

    daemon_threads = True

    def __init__(self, *args: Any, **options: Any) -> None:
        self._opening: set[socket.socket] = set()  # those that are no associations yet
        self._lock = threading.Lock()
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

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for a connection."""
        with self._lock:
            return len(self.active_associations) + len(self._opening) < _MOST

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts the thread of a connection."""
        with self._lock:
            self._opening.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shakes hands and starts the association."""
        try:
            if not isinstance(request, ssl.SSLSocket) or self._shaken(request):
                super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._opening.discard(request)

    def hang_up(self) -> None:
        """Closes connections that are no associations yet."""
        with self._lock:
            opening = list(self._opening)
        for each in opening:
            _shut_down(each)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing, unlike the standard library's."""
        log.warning("intake_failed", source="dicom", error="connection")

    def _shaken(self, request: ssl.SSLSocket) -> bool:
        try:
            request.settimeout(_HANDSHAKE)
            request.do_handshake()
        except (OSError, ValueError) as error:
            log.warning("intake_failed", source="dicom", error="tls", reason=kind_of(error))
            self.shutdown_request(request)
            return False
        return True


def hang_up(connection: Any) -> None:
    """Closes the connection of an association, so that the thread that reads from it ends."""
    _shut_down(getattr(connection, "socket", None))


def _shut_down(connection: Any) -> None:
    with suppress(OSError, TypeError):  # closed already, or none
        # Not its own method, which would end TLS first, so that what is sent just then is plain.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
