"""Starts the server and stops it."""

from __future__ import annotations

import asyncio
import errno
import gc
import math
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from bcd.config.disclaimer import DISCLAIMER
from bcd.config.serve import ServeConfig
from bcd.data.dicom.keeping import check_keep
from bcd.errors import BcdError, ConfigError
from bcd.serving.accounts.store import Accounts
from bcd.serving.answers import ModelIdentity
from bcd.serving.app import create_app
from bcd.serving.certificates import Pem, server_context
from bcd.serving.engine.loading import load_engine
from bcd.serving.engine.queue import Engine
from bcd.serving.errors import RequestError, StorageFullError
from bcd.serving.intake.start import Intake, open_intake
from bcd.serving.outbox.sender import check_outbox
from bcd.serving.records.database import database_url
from bcd.serving.records.sites import STARTED
from bcd.serving.records.store import Records, open_records
from bcd.serving.services import Services
from bcd.serving.sites import check_recorded
from bcd.serving.web.connections import Connections
from bcd.serving.web.logs import configure_logs
from bcd.serving.web.protocol import Protocol

_KEEP_ALIVE = 20  # seconds between two requests of a connection
# New objects after which cycles are looked for: Python's 700 cost more, more let memory grow.
_GARBAGE = 5_000
_SWITCH = 0.02  # seconds that a thread may go on while others wait; 0.005 costs more time
_HANDSHAKE = 10.0  # seconds of TLS's

log = structlog.get_logger("bcd.serving")


def serve(cfg: ServeConfig) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        cfg: The configuration.

    Returns:
        The exit status.

    Raises:
        BcdError: The model, the records, the address or the certificate cannot be used.
    """
    configure_logs(cfg.log)
    _check_tls(cfg)
    check_outbox(cfg.fhir)
    check_keep(cfg.dicom.keep)
    _make_folder(Path(cfg.folder))
    with _listen(cfg) as listener, open_intake(cfg) as intake:
        engine = load_engine(cfg)  # first, so that nothing is made if it is refused
        try:
            with open_records(
                database_url(cfg.records, cfg.folder), cfg.images, cfg.site
            ) as records:
                _run(cfg, listener, engine, records, intake)
        finally:
            asyncio.run(engine.close())  # its processes would outlive an error
    log.info("stopped")
    return 0


def _run(
    cfg: ServeConfig, listener: socket.socket, engine: Engine, records: Records, intake: Intake
) -> None:
    check_recorded(cfg, records)
    accounts = Accounts(records.engine, cfg)
    app = create_app(Services(cfg, engine, records, accounts), intake)
    announce = partial(_announce, cfg, listener, engine.identity, accounts.setup_path(), intake)
    server = _Server(_uvicorn(app, cfg), app, announce)
    ways = {name: way.to_plain() for name, way in engine.ways.items()}
    model = {"model": engine.identity.sha256}
    try:
        records.event("", STARTED, model | {"sites": ways})
    except RequestError as error:
        advice = " Make room." if isinstance(error, StorageFullError) else ""
        raise BcdError(f"records: cannot be written: {error.detail}{advice}") from error
    gc.freeze()  # what is there now stays until the end
    gc.set_threshold(_GARBAGE, 5, 5)
    sys.setswitchinterval(_SWITCH)
    try:
        server.run(sockets=[listener])
    except OSError as error:  # another program listens since
        raise _refused(cfg, error) from error
    finally:
        with suppress(RequestError):  # every answer since has said so
            records.event("", "server stopped", model)


class _Server(uvicorn.Server):
    """Uvicorn's server, which says at once that it stops, and ends with status 0 if it was told to.

    Uvicorn raises the signal again after a graceful stop, so that the process would die of it.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._announce = app, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says where."""
        if self.config.is_ssl:  # Uvicorn has no option for it
            loop = asyncio.get_running_loop()
            limited = partial(loop.create_server, ssl_handshake_timeout=_HANDSHAKE)
            loop.create_server = limited  # type: ignore[method-assign]
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Starts the stop; a second SIGINT does not wait for anything."""
        self._app.state.stopping = True
        super().handle_exit(sig, frame)
        self._captured_signals.clear()


def _uvicorn(app: FastAPI, cfg: ServeConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=partial(Protocol, held=Connections(cfg.proxy.trusted)),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # `Peers` does that
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, math.ceil(cfg.limits.stop_seconds)),
        ssl_certfile=cfg.tls.certificate,
        ssl_keyfile=cfg.tls.key,
    )


def _check_tls(cfg: ServeConfig) -> None:
    """Refuses a certificate that cannot be used before anything slow is done."""
    if cfg.tls.certificate is None:
        return
    assert cfg.tls.key is not None  # checked with the configuration
    server_context(Pem("tls.certificate", cfg.tls.certificate), Pem("tls.key", cfg.tls.key))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(folder.iterdir()):  # just made, perhaps by Hydra
            folder.chmod(0o700)
    except OSError as error:
        raise BcdError(f"folder={folder}: cannot be used: {error.strerror}") from error


def _listen(cfg: ServeConfig) -> socket.socket:
    """A socket at the address, before anything slow is done."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            cfg.host, cfg.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"host={cfg.host}: not an address of this machine") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _refused(cfg, error) from error
    return listener  # Uvicorn listens when the model is ready


def _refused(cfg: ServeConfig, error: OSError) -> BcdError:
    if error.errno == errno.EADDRINUSE:
        return BcdError(
            f"port={cfg.port}: in use by another program: give another port, or port=0 for any"
        )
    return BcdError(f"host={cfg.host} port={cfg.port}: {error.strerror}")


def _announce(
    cfg: ServeConfig, listener: socket.socket, model: ModelIdentity, setup_path: str, intake: Intake
) -> None:
    """Prints the address, the model and, while there is no user, the set-up link.

    It is on standard output, not among the log's lines. A service manager or container keeps that
    output too, so whoever reads it can use the link until there is an admin.
    """
    scheme = "http" if cfg.tls.certificate is None else "https"
    host = f"[{cfg.host}]" if ":" in cfg.host else cfg.host
    url = (cfg.url or f"{scheme}://{host}:{listener.getsockname()[1]}").rstrip("/")
    lines = [
        f"bcd serves {url}  ({DISCLAIMER})",
        f"Model: {model.name} ({model.kind}, sha256 {model.sha256[:12]})",
        *intake.described(),
    ]
    if setup_path:
        lines.append(f"Nobody may log in yet. Make the first user: {url}{setup_path}")
    print("\n".join(lines), flush=True)  # noqa: T201
