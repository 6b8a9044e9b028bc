"""Refuses a request before any route has seen it."""

from __future__ import annotations

from fastapi import Request
from starlette.types import Receive, Scope, Send

from bcd.serving.api.problems import problem
from bcd.serving.errors import RequestError


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends an error as the answer.

    Raises nothing that `send` does not raise.
    """
    await problem(Request(scope), error)(scope, receive, send)
