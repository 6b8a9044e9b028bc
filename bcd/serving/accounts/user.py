"""Who is logged in, and what roles there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bcd.config.sites import NAME as SITE_NAME
from bcd.serving.errors import UnprocessableError

ROLES = ("submit", "review", "sign", "admin")

# ASCII only: letters of other scripts can look like these.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class User:
    """Who sent a request.

    Attributes:
        name: As recorded, whatever the case in which it was typed.
        roles: Of the user; of a token, those that both have.
        how: `session` (a password, then a cookie), `token`, or `proxy` (a trusted header).
        csrf: The token that forms and scripts send back; empty for `token`.
        must_change: Whether the password was set by somebody else and has to be changed first.
        site: Of the user, whose cases are all that the user sees; empty: those of all sites.
    """

    name: str
    roles: frozenset[str]
    how: str
    csrf: str = ""
    must_change: bool = False
    site: str = ""

    def may(self, *roles: str) -> bool:
        """Whether the user has any of these roles; `admin` implies no other role."""
        return not self.roles.isdisjoint(roles)

    def sees(self, site: str) -> bool:
        """Whether the user may know of what belongs to a site."""
        return self.site in ("", site)


@dataclass(frozen=True)
class Account:
    """A user as recorded.

    Attributes:
        name: As typed when it was added.
        roles: Of `ROLES`.
        disabled: Whether the user cannot log in and has no sessions and tokens.
        must_change: Whether the password has to be changed at the next login.
        created: Seconds since 1970, UTC.
        site: As in `User`.
    """

    name: str
    roles: frozenset[str]
    disabled: bool
    must_change: bool
    created: float
    site: str


@dataclass(frozen=True)
class Token:
    """A token as recorded, without the token itself.

    Attributes:
        id: Names it in lists.
        user: Name of the user.
        roles: That it was given; it never has more than its user.
        created: Seconds since 1970, UTC.
        expires: Seconds since 1970, UTC.
        used: Day of its last use, `YYYY-MM-DD` in UTC; None if it was never used.
    """

    id: str
    user: str
    roles: frozenset[str]
    created: float
    expires: float
    used: str | None


def key_of(name: str) -> str:
    """What names are compared by.

    Raises:
        UnprocessableError: The name has other characters than allowed.
    """
    if not _NAME.fullmatch(name):
        raise UnprocessableError(
            "A user's name has at most 64 letters (a to z), digits and the characters . _ - @, and "
            "begins with a letter or digit"
        )
    return name.lower()


def checked_roles(roles: Iterable[str]) -> frozenset[str]:
    """Roles without repetition.

    Raises:
        UnprocessableError: One of them does not exist, or there is none.
    """
    chosen = frozenset(roles)
    if unknown := sorted(chosen - set(ROLES)):
        raise UnprocessableError(f"There is no role {unknown[0]!r}; roles are {', '.join(ROLES)}")
    if not chosen:
        raise UnprocessableError(f"Choose at least one role of {', '.join(ROLES)}")
    return chosen


def checked_site(site: str) -> str:
    """The name of a site, or empty for all sites.

    Raises:
        UnprocessableError: No site can have this name.
    """
    if site and not SITE_NAME.fullmatch(site):
        raise UnprocessableError(
            "A site's name has at most 32 letters (a to z), digits, _ and -, and begins with a "
            "letter or digit"
        )
    return site


def in_order(roles: Iterable[str]) -> list[str]:
    """Roles in the order of `ROLES`."""
    return [role for role in ROLES if role in set(roles)]
