"""Renders templates; everything that a user typed is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

import bcd
from bcd.config.disclaimer import DISCLAIMER
from bcd.interop.dicom.content import installed
from bcd.interop.settings import site_settings
from bcd.serving import words

if TYPE_CHECKING:
    from bcd.serving.accounts.access import User

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"


@cache
def environment() -> Environment:
    """The templates' environment."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(disclaimer=DISCLAIMER, version=bcd.__version__, objects=installed())
    made.filters.update(
        finding=words.finding,
        missing_signatures=words.missing_signatures,
        percent=words.percent,
        reason=words.reason,
        brief=words.brief_reason,
        score=words.score,
        case_settings=words.case_settings,
        settings=lambda answer: site_settings(answer.profile, answer.threshold),
        utc=words.utc,
        machine_utc=words.machine_utc,
    )
    return made


def page(
    request: Request, template: str, user: User | None, status: int = 200, **values: Any
) -> HTMLResponse:
    """A page, or a part of one that htmx puts into it.

    Args:
        request: It is answered by this page.
        template: Name of the file in `templates/`.
        user: Who is logged in; None for nobody.
        status: The HTTP status.
        values: For the template, besides `user` and `csrf` (the session's CSRF token, empty if
            nobody is logged in).
    """
    csrf = "" if user is None else user.csrf
    text = environment().get_template(template).render(user=user, csrf=csrf, **values)
    return HTMLResponse(text, status)


def page_of(request: Request) -> str:
    """The page of a form whose address is below it, with the query."""
    path = request.url.path.rpartition("/")[0]
    return f"{path}?{request.url.query}" if request.url.query else path


def wants_part(request: Request) -> bool:
    """Whether htmx asks for a part of the page."""
    return "hx-request" in request.headers
