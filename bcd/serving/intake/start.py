"""Starts what takes images of scanners, and stops it with the server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from bcd.config.serve import LOOPBACK, ServeConfig
from bcd.config.sites import read_sites
from bcd.errors import BcdError, ConfigError
from bcd.serving.certificates import Pem, server_context
from bcd.serving.intake.watch import Watcher
from bcd.storage import typed_path

if TYPE_CHECKING:
    import ssl

    from bcd.config.interop import DicomNodeConfig
    from bcd.serving.intake.node import Node
    from bcd.serving.services import Services
    from bcd.serving.tasks import Tasks

WATCH, DICOM = "watch", "dicom"  # sources, in metrics

log = structlog.get_logger("bcd.serving.intake")


class Intake:
    """Watch folders and the DICOM node of a server.

    Args:
        folders: The folder of each site that has one, by the site's name.
        node: The node; None for none.
    """

    def __init__(self, folders: Mapping[str, Path], node: Node | None) -> None:
        self._folders, self._node = folders, node

    def described(self) -> list[str]:
        """A line for each source that there is, for the start of the server."""
        lines = [
            f"Watches a folder{f' of site {site}' if site else ''}: {folder}"
            for site, folder in self._folders.items()
        ]
        if self._node is None:
            return lines
        return [*lines, f"DICOM node{' (TLS)' if self._node.encrypted else ''}: {self._node.name}"]

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *_: object) -> None:
        if self._node is not None:
            self._node.close()

    def start(self, services: Services, registry: CollectorRegistry, tasks: Tasks) -> None:
        """Begins to take images; call it in the event loop.

        Args:
            services: Of the server.
            registry: Of metrics, to which those of the intake are added.
            tasks: To which the watching of folders is added.
        """
        counter = Counter(
            "bcd_intake_files", "Files of scanners, by what became of them", ["source", "outcome"],
            registry=registry,
        )  # fmt: skip

        def counting(source: str) -> Callable[[str], None]:
            return lambda outcome: counter.labels(source, outcome).inc()

        watchers = [
            Watcher(services, folder, site, counting(WATCH))
            for site, folder in self._folders.items()
        ]
        self._measure(registry, watchers, tasks)
        if self._node is not None:
            self._node.start(services, counting(DICOM))
        for watcher in watchers:
            tasks.start(WATCH, watcher.run)

    async def stop(self) -> None:
        """Stops the node, once what it is storing has ended."""
        if self._node is not None:
            await asyncio.to_thread(self._node.stop)

    def _measure(self, registry: CollectorRegistry, watchers: list[Watcher], tasks: Tasks) -> None:
        waiting = Gauge(
            "bcd_intake_waiting", "Files in watch folders that are not moved yet", registry=registry
        )
        waiting.set_function(lambda: sum(each.waiting for each in watchers))
        hindered = Gauge(
            "bcd_intake_hindered", "Files and subfolders that cannot be read or moved",
            registry=registry,
        )  # fmt: skip
        hindered.set_function(lambda: sum(each.hindered for each in watchers))
        elsewhere = Gauge(
            "bcd_intake_other_model", "Files that wait for a server with another model",
            registry=registry,
        )  # fmt: skip
        elsewhere.set_function(lambda: sum(each.elsewhere for each in watchers))
        ready = Gauge(
            "bcd_intake_ready", "1 if files can be taken", ["source"], registry=registry
        )  # fmt: skip
        if watchers:
            ready.labels(WATCH).set_function(
                lambda: float(not any(each.problem for each in watchers) and not tasks.down(WATCH))
            )
        if (node := self._node) is not None:
            ready.labels(DICOM).set_function(lambda: float(node.alive))


def open_intake(cfg: ServeConfig) -> Intake:
    """Checks watch folders and listens for DICOM, before anything slow is done.

    Raises:
        BcdError: A folder or the port cannot be used, or a package is not installed.
        ConfigError: A folder, AE title or certificate is not valid, or anybody could send.
    """
    sites = read_sites(cfg)
    folders: dict[str, Path] = {}
    for name, site in sites.items():
        if site.watch is not None:
            key = "watch" if name == cfg.site else f"{site.key}.watch"
            folders[name] = _checked_folder(key, site.watch, cfg.folder)
    titles = dict.fromkeys(map(_title, cfg.dicom.allow), cfg.site)
    for name, site in sites.items():
        for title in site.ae_titles:
            if titles.setdefault(title, name) != name:
                raise ConfigError(
                    f"{site.key}.ae_titles: {title} is in dicom.allow, too, which is of the "
                    "server's own site: a sender belongs to one site"
                )
    return Intake(folders, None if cfg.dicom.port is None else _open_node(cfg, titles))


def _checked_folder(key: str, given: str, records: str) -> Path:
    if not given:
        raise ConfigError(f"{key}: is empty: give a folder, or {key}=null")
    folder = typed_path(given).absolute()
    if not folder.is_dir():
        raise BcdError(f"{key}={given}: there is no such folder: make it, or give another one")
    if os.open not in os.supports_dir_fd:
        raise BcdError(f"{key}={given}: this system has no way to watch a folder safely")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise BcdError(
            f"{key}={given}: files cannot be moved there: give the server's user the right to write"
        )
    paths = [os.path.realpath(folder), os.path.realpath(Path(records).absolute())]
    if os.path.commonpath(paths) in paths:
        raise ConfigError(f"{key}={given}: overlaps with folder={records}: give another one")
    return folder


def _title(given: str) -> str:
    title = str(given).strip()
    if not title or len(title) > 16 or not title.isascii() or "\\" in title:
        raise ConfigError(f"dicom.allow: '{given}' is no AE title: at most 16 ASCII characters")
    return title


def _open_node(cfg: ServeConfig, titles: Mapping[str, str]) -> Node:
    where = f"dicom.host={cfg.dicom.host} dicom.port={cfg.dicom.port}"
    if cfg.dicom.host not in LOOPBACK and not titles:
        raise ConfigError(
            f"dicom.host={cfg.dicom.host}: anybody in the network could send images: give "
            "dicom.allow=[<AE titles that may>]"
        )
    tls = _tls(cfg.dicom)
    try:
        from bcd.serving.intake.node import Node
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("pydicom", "pynetdicom"):
            raise
        raise BcdError("dicom.port: needs pynetdicom: pip install 'bcd[dicom]'") from None
    try:
        node = Node(cfg.dicom, titles, cfg.site, int(cfg.limits.image_mb * 1e6), tls)
    except OSError as error:
        raise BcdError(f"{where}: {error.strerror}: give another address or port") from error
    except ValueError as error:  # of pynetdicom, for an AE title
        raise ConfigError(f"dicom.ae_title={cfg.dicom.ae_title}: {error}") from error
    if tls is None and cfg.dicom.host not in LOOPBACK:
        advice = "give dicom.tls_cert and dicom.tls_key, or use it in a network of its own"
        log.warning("dicom_unencrypted", host=cfg.dicom.host, advice=advice)
    return node


def _tls(cfg: DicomNodeConfig) -> ssl.SSLContext | None:
    if cfg.tls_cert is None or cfg.tls_key is None:
        return None
    authorities = None if cfg.tls_ca is None else Pem("dicom.tls_ca", cfg.tls_ca)
    certificate, key = Pem("dicom.tls_cert", cfg.tls_cert), Pem("dicom.tls_key", cfg.tls_key)
    return server_context(certificate, key, authorities)
