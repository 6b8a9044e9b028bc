"""A case's report: as a page to print, PDF and CSV."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from bcd.serving import cases, words
from bcd.serving.accounts.access import Reader
from bcd.serving.api.dependencies import Served
from bcd.serving.pages.render import page

router = APIRouter(include_in_schema=False)


@router.get("/cases/{case_id}/report")
async def report(request: Request, services: Served, user: Reader, case_id: str) -> Response:
    """The report to read and print."""
    case = await cases.get_case(services, user, case_id)
    model = await run_in_threadpool(services.records.model_of, case.model_sha256)
    head = await run_in_threadpool(services.records.head)
    findings = Counter(map(words.finding, case.images))
    return page(
        request, "report.html", user, case=case, model=model, head=head,
        findings=sorted(findings.items()),
    )  # fmt: skip


@router.get("/cases/{case_id}/report.csv")
async def report_csv(services: Served, user: Reader, case_id: str) -> Response:
    """The report as CSV."""
    return download(
        await cases.csv_report(services, user, case_id), "text/csv; charset=utf-8", case_id
    )


@router.get("/cases/{case_id}/report.pdf")
async def report_pdf(services: Served, user: Reader, case_id: str) -> Response:
    """The report as PDF."""
    return download(await cases.pdf_report(services, user, case_id), "application/pdf", case_id)


def download(content: bytes, kind: str, case_id: str) -> Response:
    """A file to save; its name has the case's id only, as labels may be personal."""
    ending = {"text/csv": "csv", "application/pdf": "pdf"}[kind.split(";")[0]]
    safe = "".join(c for c in case_id if c.isalnum() or c in "-_")
    headers = {"Content-Disposition": f'attachment; filename="case-{safe}.{ending}"'}
    return Response(content, media_type=kind, headers=headers)
