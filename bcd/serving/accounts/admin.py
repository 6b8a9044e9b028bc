"""The admin's pages: users, their roles and their tokens."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from bcd.serving.accounts.access import Admin, accounts_of, cookie_name
from bcd.serving.accounts.passwords import MIN_CHARACTERS
from bcd.serving.accounts.store import Accounts
from bcd.serving.accounts.user import ROLES, Account, User, in_order
from bcd.serving.errors import ForbiddenError, NotFoundError, RequestError, UnprocessableError
from bcd.serving.pages.render import page

router = APIRouter(include_in_schema=False)

TOKEN_DAYS = 90  # that the form proposes

_Text = Annotated[str, Form()]
_Roles = Annotated[list[str], Form(default_factory=list)]

# What has been done, for the page that comes after it.
_DONE = {
    "added": "The user was added.",
    "roles": "The roles were changed.",
    "site": "The site was changed; sessions have ended.",
    "password": "The password was set; the user has to choose another one at the next login. "
    "Sessions and tokens of the user have ended.",
    "disabled": "The user was disabled; sessions and tokens have ended.",
    "enabled": "The user was enabled.",
    "revoked": "The token was revoked.",
}


@router.get("/users")
def users(request: Request, user: Admin) -> Response:
    """All users, and the form to add one."""
    return _users_page(request, user)


@router.post("/users")
def add(
    request: Request, user: Admin, roles: _Roles, name: _Text = "", password: _Text = "",
    site: _Text = "",
) -> Response:  # fmt: skip
    """Adds a user with a first password; without one if a proxy logs users in."""
    accounts = accounts_of(request)
    first = password if accounts.asks_for_passwords else None
    try:
        where = _checked_site(accounts, user, site)
        accounts.users.add(user.name, name, first, roles, must_change=first is not None, site=where)
    except RequestError as error:
        return _users_page(request, user, error, name, roles, site)
    return _done(name, "added")


@router.get("/users/{name}")
def one(request: Request, user: Admin, name: str, done: str = "") -> Response:
    """A user, with forms for what can be changed."""
    return _user_page(request, user, name, done=_DONE.get(done, ""))


@router.post("/users/{name}/roles")
def set_roles(request: Request, user: Admin, name: str, roles: _Roles) -> Response:
    """Gives a user other roles."""
    accounts = accounts_of(request)
    _managed(request, user, name)
    try:
        keep = request.cookies.get(cookie_name(accounts.cfg))
        accounts.users.set_roles(user.name, name, roles, keep)
    except RequestError as error:
        return _user_page(request, user, name, error)
    return _done(name, "roles")


@router.post("/users/{name}/site")
def set_site(request: Request, user: Admin, name: str, site: _Text = "") -> Response:
    """Lets a user see the cases of another site only, or of all."""
    accounts = accounts_of(request)
    _managed(request, user, name)
    try:
        if user.site:
            raise ForbiddenError(f"You may manage users of the site {user.site} only")
        accounts.users.set_site(user.name, name, _checked_site(accounts, user, site))
    except RequestError as error:
        return _user_page(request, user, name, error)
    return _done(name, "site")


@router.post("/users/{name}/password")
def set_password(request: Request, user: Admin, name: str, password: _Text = "") -> Response:
    """Gives a user a password that has to be changed at the next login; tokens end."""
    _managed(request, user, name)
    try:
        accounts_of(request).users.set_password(user.name, name, password, must_change=True)
    except RequestError as error:
        return _user_page(request, user, name, error)
    return _done(name, "password")


@router.post("/users/{name}/disable")
def disable(request: Request, user: Admin, name: str) -> Response:
    """Ends what a user may do."""
    _managed(request, user, name)
    try:
        accounts_of(request).users.set_disabled(user.name, name, True)
    except RequestError as error:
        return _user_page(request, user, name, error)
    return _done(name, "disabled")


@router.post("/users/{name}/enable")
def enable(request: Request, user: Admin, name: str) -> Response:
    """Lets a disabled user log in again."""
    _managed(request, user, name)
    accounts_of(request).users.set_disabled(user.name, name, False)
    return _done(name, "enabled")


@router.post("/users/{name}/tokens")
def add_token(
    request: Request, user: Admin, name: str, roles: _Roles, days: _Text = ""
) -> Response:  # fmt: skip
    """Makes a token, which is shown this once."""
    _managed(request, user, name)
    try:
        number = float(days) if days.isascii() and days.isdigit() else 0.0
        token = accounts_of(request).tokens.add(user.name, name, roles, number)
    except RequestError as error:
        return _user_page(request, user, name, error)
    return _user_page(request, user, name, token=token)


@router.post("/users/{name}/tokens/{number}/revoke")
def revoke(request: Request, user: Admin, name: str, number: str) -> Response:
    """Ends a token."""
    account, tokens = _managed(request, user, name), accounts_of(request).tokens
    if not any(one.id == number and one.user == account.name for one in tokens.all()):
        raise NotFoundError("This user has no such token")
    tokens.revoke(user.name, number)
    return _done(name, "revoked")


def _managed(request: Request, user: User, name: str) -> Account:
    """A user whom an administrator may manage: one of the same site, if the administrator has one.

    Raises:
        NotFoundError: There is no such user.
    """
    account = accounts_of(request).users.find(name)
    if account is None or not user.sees(account.site):
        raise NotFoundError("There is no such user")
    return account


def _checked_site(accounts: Accounts, user: User, asked: str) -> str:
    """The site that a user gets from an administrator; empty for all sites.

    Raises:
        ForbiddenError: The administrator is of another site.
        UnprocessableError: The server has no such site.
    """
    if user.site and asked not in ("", user.site):
        raise ForbiddenError(f"You may manage users of the site {user.site} only")
    if asked and asked not in accounts.sites:
        raise UnprocessableError(f"This server has no site {asked[:32]!r}")
    return user.site or asked


def _done(name: str, what: str) -> Response:
    return RedirectResponse(f"/users/{quote(name, safe='')}?done={what}", 303)


def _users_page(
    request: Request, user: User, error: RequestError | None = None, name: str = "",
    chosen: list[str] | None = None, site: str = "",
) -> Response:  # fmt: skip
    accounts = accounts_of(request)
    return page(
        request,
        "users.html",
        user,
        error.status if error else 200,
        rows=[
            (account, in_order(account.roles))
            for account in accounts.users.all()
            if user.sees(account.site)
        ],
        sites=_offered(accounts, user),
        site=site,
        all_roles=ROLES,
        chosen=chosen or [],
        passwords=accounts.asks_for_passwords,
        name=name[:64],
        error=error.detail if error else "",
        characters=MIN_CHARACTERS,
    )


def _user_page(
    request: Request, user: User, name: str, error: RequestError | None = None, done: str = "",
    token: str = "",
) -> Response:  # fmt: skip
    accounts = accounts_of(request)
    account = _managed(request, user, name)
    tokens = [
        (found, in_order(found.roles), _day(found.created), _day(found.expires))
        for found in accounts.tokens.all()
        if found.user == account.name
    ]
    return page(
        request,
        "user.html",
        user,
        error.status if error else 200,
        account=account,
        all_roles=ROLES,
        sites=_offered(accounts, user),
        tokens=tokens,
        token=token,
        days=TOKEN_DAYS,
        passwords=accounts.asks_for_passwords,
        error=error.detail if error else "",
        done=done,
        characters=MIN_CHARACTERS,
    )


def _offered(accounts: Accounts, user: User) -> list[str]:
    """Sites that an administrator may choose for a user; empty if there is nothing to choose."""
    return [] if user.site else [name for name in accounts.sites if name]


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"
