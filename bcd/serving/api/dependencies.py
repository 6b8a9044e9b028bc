"""What route functions depend on."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from bcd.serving.services import Services


async def get_services(request: Request) -> Services:
    """What the app was made with; FastAPI would call a plain function in a thread."""
    return cast(Services, request.app.state.services)


Served = Annotated[Services, Depends(get_services)]
