"""Who sent a request, and whether that user may do it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, cast
from urllib.parse import SplitResult, quote, urlsplit

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from bcd.config.serve import LOOPBACK, ServeConfig
from bcd.serving.accounts.sessions import digest
from bcd.serving.accounts.store import Accounts
from bcd.serving.accounts.tokens import PREFIX
from bcd.serving.accounts.user import ROLES, Account, User, key_of
from bcd.serving.engine.turns import asker
from bcd.serving.errors import ForbiddenError, RequestError, UnauthorizedError
from bcd.serving.services import Services
from bcd.serving.web.peers import is_trusted

__all__ = ["ROLES", "User", "require"]

ALL_SITES = "*"  # what a proxy says of users who see the cases of all sites
_SAFE = ("GET", "HEAD", "OPTIONS")
_BEARER = HTTPBearer(
    scheme_name="token",
    description="A token of `bcd serve token add`, as `Authorization: Bearer bcd_…`.",
    auto_error=False,
)
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


def require(*roles: str) -> Callable[..., Awaitable[User]]:
    """A dependency that returns the user, who has one of these roles.

    The user is also in `request.state.user`, for the log.

    Args:
        roles: Any of them is enough; none: everybody who is logged in.

    Raises:
        UnauthorizedError: Nobody is logged in; a page leads to the login instead.
        ForbiddenError: None of the roles, no CSRF token, or a request of another site's page.
    """

    async def user(request: Request, _: _Credentials) -> User:
        found = await logged_in(request)
        if found.must_change:
            if _is_page(request):
                raise HTTPException(303, headers={"Location": "/account"})
            raise ForbiddenError("Choose another password first, on the page /account")
        if roles and not found.may(*roles):
            raise ForbiddenError(f"This needs the role {' or '.join(roles)}")
        return found

    return user


# Who may do something, as route functions ask for it.
Reader = Annotated[User, Depends(require(*ROLES))]
Submitter = Annotated[User, Depends(require("submit"))]
Reviewer = Annotated[User, Depends(require("review"))]
Signer = Annotated[User, Depends(require("sign"))]
Admin = Annotated[User, Depends(require("admin"))]


async def logged_in(request: Request) -> User:
    """The user, whatever the roles, also one whose password has to be changed first.

    Raises:
        UnauthorizedError: Nobody is logged in; a page leads to the login instead.
        ForbiddenError: No CSRF token, or a request of another site's page.
    """
    accounts = accounts_of(request)
    found = await run_in_threadpool(user_of, request, accounts)
    if found is None:
        raise _login_first(request)
    request.state.user = found
    asker.set(found.name)
    if found.how != "token" and request.method not in _SAFE:
        check_same_origin(request, accounts.cfg)
        await _check_csrf(request, found)
    return found


def accounts_of(request: Request) -> Accounts:
    """The accounts of the application that got the request."""
    return cast(Services, request.app.state.services).accounts


def user_of(request: Request, accounts: Accounts) -> User | None:
    """The user of a request, without any check of what it is; None for nobody."""
    authorization = request.headers.getlist("authorization")
    scheme, _, token = (authorization[0] if authorization else "").partition(" ")
    if scheme.lower() == "bearer" and token.strip().startswith(PREFIX):
        return accounts.tokens.user(token.strip()) if len(authorization) == 1 else None
    if accounts.cfg.proxy.user_header is not None:
        return _proxy_user(request, accounts)
    if authorization:  # not a valid token, whatever the cookie
        return None
    cookie = request.cookies.get(cookie_name(accounts.cfg))
    return None if cookie is None else accounts.sessions.user(cookie)


def check_same_origin(request: Request, cfg: ServeConfig) -> None:
    """Refuses a request that a browser sent because of another site's page.

    Every browser of today says where a POST comes from: in Sec-Fetch-Site on encrypted connections
    and loopback, and in Origin.

    Raises:
        ForbiddenError: It comes from elsewhere, or does not say where from.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = cfg.url or f"{request.url.scheme}://{request.headers.get('host', '')}"
    if site is not None and site != "same-origin":
        raise ForbiddenError("This request comes from a page of another site")
    if origin is None and site is None:
        raise ForbiddenError("This request does not say where it comes from (header Origin)")
    if origin is not None and origin != "null" and _origin(origin) != _origin(own):
        raise ForbiddenError("This request comes from a page of another site")
    if origin == "null" and site is None:
        raise ForbiddenError("This request does not say where it comes from (header Origin)")


def is_plain(cfg: ServeConfig) -> bool:
    """Whether browsers reach the server by plain HTTP, which is possible on loopback only."""
    if cfg.url is not None:
        url = urlsplit(cfg.url)
        return url.scheme == "http" and url.hostname in LOOPBACK
    return cfg.host in LOOPBACK and cfg.tls.certificate is None and not cfg.proxy.trusted


def cookie_name(cfg: ServeConfig) -> str:
    """Of the session's cookie; a browser accepts `__Host-` from this server alone, encrypted."""
    return "bcd" if is_plain(cfg) else "__Host-bcd"


def local_path(text: str) -> str:
    """A path of this server to go to after the login; `/` for anything else."""
    parts = _split(text) if text.isascii() and text.isprintable() else None
    local = parts is not None and not parts.scheme and not parts.netloc
    safe = text.startswith("/") and not text.startswith("//") and "\\" not in text
    return text if local and safe and len(text) <= 2000 else "/"


def client_of(request: Request) -> str:
    """Address of the client, behind trusted proxies that of the browser."""
    return request.client.host if request.client else ""


def _proxy_user(request: Request, accounts: Accounts) -> User | None:
    """The user that a trusted proxy names; None if it is another peer or names nobody."""
    proxy = accounts.cfg.proxy
    peer = request.scope.get("bcd.peer") or client_of(request)  # not the browser behind it
    names = request.headers.getlist(proxy.user_header or "")
    if not is_trusted(peer, proxy.trusted) or len(names) != 1:
        return None
    try:
        key = key_of(names[0].strip())
    except RequestError:
        return None
    account = accounts.users.find(key)
    if account is not None and account.disabled:
        return None
    if proxy.roles_header is None:
        roles = account.roles if account is not None else frozenset()
    else:
        listed = request.headers.getlist(proxy.roles_header)
        given = {role.strip() for role in listed[0].split(",")} if len(listed) == 1 else set()
        roles = frozenset(given) & frozenset(ROLES)
    site = _proxy_site(request, accounts, account)
    if site is None:
        return None
    csrf = hmac.new(accounts.proxy_key, key.encode(), hashlib.sha256).hexdigest()
    return User(account.name if account is not None else key, roles, "proxy", csrf, site=site)


def _proxy_site(request: Request, accounts: Accounts, account: Account | None) -> str | None:
    """The site of a user that a proxy names; empty for all sites, None for one that is unknown."""
    header = accounts.cfg.proxy.site_header
    if header is None:
        return "" if account is None else account.site
    sites = [name.strip() for name in request.headers.getlist(header)]
    if len(sites) != 1 or sites[0] not in (ALL_SITES, *filter(None, accounts.sites)):
        return None  # a header that is missing, or empty, does not open all sites
    return "" if sites[0] == ALL_SITES else sites[0]


async def _check_csrf(request: Request, user: User) -> None:
    sent = request.headers.get("x-csrf-token")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent is None and kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        field = (await request.form()).get("csrf")
        sent = field if isinstance(field, str) else None
    if sent is None or not hmac.compare_digest(digest(sent), digest(user.csrf)):
        raise ForbiddenError("This page is too old: load it again (its CSRF token is not valid)")


def _is_page(request: Request) -> bool:
    accepts = "text/html" in request.headers.get("accept", "") or "hx-request" in request.headers
    return accepts and not request.url.path.startswith("/v1")


def _login_first(request: Request) -> Exception:
    if not _is_page(request):
        return UnauthorizedError("Log in, or send a valid token as Authorization: Bearer bcd_…")
    if "hx-request" in request.headers:  # htmx would put the login into a part of the page
        here = _split(request.headers.get("hx-current-url", ""))
        path = "/" if here is None else f"{here.path}?{here.query}" if here.query else here.path
        path = local_path(path)
        return HTTPException(401, headers={"HX-Redirect": f"/login?next={quote(path, safe='')}"})
    path = request.url.path
    if request.method not in _SAFE and not path.startswith("/cases"):
        path = "/"  # the addresses of other forms have no page
    elif request.url.query:
        path = f"{path}?{request.url.query}"
    return HTTPException(303, headers={"Location": f"/login?next={quote(path, safe='')}"})


def _split(url: str) -> SplitResult | None:
    """Parts of a URL; None if it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None
    return parts.scheme, parts.hostname, port
