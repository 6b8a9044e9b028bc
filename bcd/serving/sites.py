"""For which site a user acts, the same for pages and API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from bcd.config.sites import read_sites
from bcd.errors import ConfigError
from bcd.serving.errors import ForbiddenError, RequestError
from bcd.serving.records.database import reading
from bcd.serving.records.sites import case_sites

if TYPE_CHECKING:
    from bcd.config.serve import ServeConfig
    from bcd.serving.accounts.access import User
    from bcd.serving.records.store import Records
    from bcd.serving.services import Services


def check_recorded(cfg: ServeConfig, records: Records) -> None:
    """Logs a warning if there are cases of sites that the server does not have.

    Raises:
        ConfigError: They would be shown to users who are recorded only at a proxy.
        UnavailableError: The records cannot be used.
    """
    with reading(records.engine, None) as connection:
        found = case_sites(connection)
    missing, others = sorted(found - set(read_sites(cfg))), sorted(found - {"", cfg.site})
    if others and cfg.proxy.roles_header is not None and cfg.proxy.site_header is None:
        raise ConfigError(
            "proxy.roles_header: users who are recorded only at the proxy would see the cases of "
            f"the sites {', '.join(others)}: give proxy.site_header=<header with the user's site>"
        )
    if missing:
        structlog.get_logger("bcd.serving").warning(
            "sites_missing", sites=[site or "(no name)" for site in missing],
            advice="their open cases take no more images: see site and sites",
        )  # fmt: skip


def acting_site(services: Services, user: User, asked: str | None) -> str:
    """The site for which a user opens a case or asks for an answer.

    Args:
        services: Of the server.
        user: Who does it.
        asked: The site that the request names; empty or None if it names none, which is the user's
            own, or else the server's own.

    Raises:
        ForbiddenError: The user is of another site.
        RequestError: The server has no such site.
    """
    if user.site and asked and asked != user.site:
        raise ForbiddenError(f"You may act for the site {user.site} only.")
    site = user.site or asked or services.cfg.site
    if site not in services.sites:
        known = ", ".join(filter(None, services.sites))
        there = f"choose one of {known}" if known and not user.site else "ask an administrator"
        raise RequestError(f"This server has no site {site[:32]!r}: {there}.")
    return site


def seen_site(user: User, asked: str | None) -> str | None:
    """The site whose cases a list has; None for those of all.

    Args:
        user: Who asks.
        asked: The site that the request names; None if it names none.

    Raises:
        ForbiddenError: The user is of another site.
    """
    if user.site and asked not in (None, user.site):
        raise ForbiddenError(f"You see the cases of the site {user.site} only.")
    return user.site or asked


def visible_sites(services: Services, user: User) -> list[str]:
    """Names of the server's sites that a user may know of."""
    return [name for name in services.sites if user.sees(name)]
