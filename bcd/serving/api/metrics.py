"""GET /metrics, for Prometheus."""

from __future__ import annotations

import contextlib

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.concurrency import run_in_threadpool

from bcd.serving.api.dependencies import Served
from bcd.serving.api.problems import documented
from bcd.serving.errors import RequestError
from bcd.serving.jobs.adding import waiting
from bcd.serving.monitoring.monitor import alarms
from bcd.serving.outbox.listing import Listing

router = APIRouter()


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={
        **documented(),
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
async def metrics(request: Request, services: Served) -> Response:
    """Requests, answers, queue, alarms, outbox, in Prometheus' text format; nothing personal."""
    # The other figures are worth most when the records cannot be read.
    with contextlib.suppress(RequestError):
        request.app.state.metrics.alarms(await run_in_threadpool(alarms, services))
        request.app.state.metrics.jobs(await run_in_threadpool(waiting, services))
        outbox = Listing(services.records.engine)
        request.app.state.metrics.outbox(await run_in_threadpool(outbox.counts))
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
