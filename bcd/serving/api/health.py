"""GET /healthz and /readyz, for what starts and watches the server."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from bcd.serving.api.dependencies import Served
from bcd.serving.api.problems import documented
from bcd.serving.errors import RequestError, UnavailableError

router = APIRouter()


class Health(BaseModel):
    """That the server runs."""

    status: str = Field(description="Always ok.", examples=["ok"])


@router.get("/healthz", operation_id="healthz", summary="The process lives", responses=documented())
async def healthz() -> Health:
    """Answers as long as the process does."""
    return Health(status="ok")


@router.get(
    "/readyz", operation_id="readyz", summary="Requests can be answered", responses=documented()
)
async def readyz(request: Request, services: Served) -> Health:
    """Whether the model answers and the records can be used; 503 with the reason if not.

    The records are read. Nothing is written: that it is possible is concluded from the thread that
    writes, from the file, and from the last write of the past half minute. Nor is a server ready
    whose work in the background, such as answering what waits, has just failed.
    """
    if request.app.state.stopping:
        raise UnavailableError("The server is stopping.", retry_after=5)
    if why := services.engine.ready():
        raise UnavailableError(why, retry_after=5)
    try:
        await run_in_threadpool(services.records.head)
        why = services.records.ready()
    except RequestError as error:
        why = error.detail
    if not why and (down := request.app.state.tasks.down()):
        why = f"Work in the background has failed and is started again: {', '.join(down)}."
    if why:
        raise UnavailableError(why, retry_after=5)
    return Health(status="ok")
