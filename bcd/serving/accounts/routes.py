"""Pages to log in and out, for the first admin, and for one's own password."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from bcd.serving.accounts import admin
from bcd.serving.accounts.access import (
    accounts_of,
    check_same_origin,
    client_of,
    cookie_name,
    is_plain,
    local_path,
    logged_in,
    user_of,
)
from bcd.serving.accounts.passwords import MIN_CHARACTERS
from bcd.serving.accounts.store import Accounts
from bcd.serving.accounts.user import User, in_order
from bcd.serving.errors import ForbiddenError, RequestError, UnprocessableError
from bcd.serving.pages.render import page

router = APIRouter(include_in_schema=False)
router.include_router(admin.router)

_Text = Annotated[str, Form()]
_LoggedIn = Annotated[User, Depends(logged_in)]


@router.get("/login")
def login_form(request: Request, next: str = "/") -> Response:
    """The form to log in; whoever is logged in already goes on."""
    accounts = accounts_of(request)
    if user_of(request, accounts) is not None:
        return RedirectResponse(local_path(next), 303)
    return _login_page(request, accounts, next)


@router.post("/login")
def login(
    request: Request, name: _Text = "", password: _Text = "", next: _Text = "/"
) -> Response:  # fmt: skip
    """Begins a session, always a new one, whatever cookie came with the request.

    Another site's page cannot log somebody in here: browsers say in Origin and Sec-Fetch-Site where
    the form was.
    """
    accounts = accounts_of(request)
    check_same_origin(request, accounts.cfg)
    if not accounts.asks_for_passwords:
        raise ForbiddenError("Nobody logs in here: the reverse proxy does it")
    cookie = cookie_name(accounts.cfg)
    try:
        begun = accounts.log_in(name, password, client_of(request), request.cookies.get(cookie))
    except RequestError as error:
        return _login_page(request, accounts, next, name, error)
    if begun is None:
        wrong = UnprocessableError("The name or the password is wrong")
        return _login_page(request, accounts, next, name, wrong, 401)
    target = "/account" if begun.account.must_change else local_path(next)
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        cookie, begun.cookie, int(accounts.cfg.session.hours * 3600),
        secure=not is_plain(accounts.cfg), httponly=True, samesite="strict",
    )  # fmt: skip
    return answer


@router.post("/logout")
def logout(request: Request, user: _LoggedIn) -> Response:
    """Ends the session."""
    accounts = accounts_of(request)
    cookie = cookie_name(accounts.cfg)
    if user.how == "session":
        accounts.sessions.end(user, request.cookies[cookie])
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(
        cookie, secure=not is_plain(accounts.cfg), httponly=True, samesite="strict"
    )
    return answer


@router.get("/setup")
def setup_form(request: Request, token: str = "") -> Response:
    """The form for the first admin, behind the link that the server has printed."""
    if not accounts_of(request).may_set_up(token):
        raise ForbiddenError("This link is not valid any more")
    return _setup_page(request, token)


@router.post("/setup")
def setup(
    request: Request, token: _Text = "", name: _Text = "", password: _Text = "", again: _Text = ""
) -> Response:
    """Makes the first admin."""
    accounts = accounts_of(request)
    check_same_origin(request, accounts.cfg)
    if not accounts.may_set_up(token):
        raise ForbiddenError("This link is not valid any more")
    try:
        _check_same(password, again)
        accounts.set_up(token, name, password)
    except RequestError as error:
        return _setup_page(request, token, name, error)
    return RedirectResponse("/login", 303)


@router.get("/account")
def account(request: Request, user: _LoggedIn, done: str = "") -> Response:
    """One's own roles, and the form for another password."""
    return _account_page(request, user, done=bool(done))


@router.post("/account")
def change_password(
    request: Request, user: _LoggedIn, current: _Text = "", password: _Text = "", again: _Text = ""
) -> Response:
    """Changes one's own password; all other sessions of the user end."""
    accounts = accounts_of(request)
    if user.how != "session":
        raise ForbiddenError("Passwords are changed by users who have logged in with one")
    try:
        _check_same(password, again)
        if not accounts.confirm(user, current):
            raise UnprocessableError("The current password is wrong")
        if password == current:
            raise UnprocessableError("The new password is the current one")
        keep = request.cookies[cookie_name(accounts.cfg)]
        accounts.users.set_password(user.name, user.name, password, keep=keep)
    except RequestError as error:
        return _account_page(request, user, error)
    return RedirectResponse("/account?done=1", 303)


def _check_same(password: str, again: str) -> None:
    if password != again:
        raise UnprocessableError("The two passwords differ")


def _login_page(
    request: Request, accounts: Accounts, next: str, name: str = "",
    error: RequestError | None = None, status: int | None = None,
) -> Response:  # fmt: skip
    answer = page(
        request,
        "login.html",
        None,
        status or (error.status if error else 200),
        proxy=not accounts.asks_for_passwords,
        empty=not accounts.users.has_admin(),
        next=local_path(next),
        name=name[:64],
        error=error.detail if error else "",
    )
    if error is not None and error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _setup_page(
    request: Request, token: str, name: str = "", error: RequestError | None = None
) -> Response:
    return page(
        request,
        "setup.html",
        None,
        error.status if error else 200,
        token=token,
        name=name[:64],
        error=error.detail if error else "",
        characters=MIN_CHARACTERS,
    )


def _account_page(
    request: Request, user: User, error: RequestError | None = None, done: bool = False
) -> Response:
    return page(
        request,
        "account.html",
        user,
        error.status if error else 200,
        roles=in_order(user.roles),
        error=error.detail if error else "",
        done=done,
        characters=MIN_CHARACTERS,
    )
