"""Errors as answers: problem details (RFC 9457) for programs, a page for people."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount

from bcd.serving.errors import RequestError, UnprocessableError
from bcd.serving.pages.render import page

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """Why a request was not fulfilled (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Too many requests",
                "status": 429,
                "detail": "64 images wait already: try again later.",
                "request_id": "0f8b3c5e9a7d4c21",
            }
        }
    )

    type: str = Field(
        default="about:blank", description="Always about:blank: the status says it all."
    )
    title: str = Field(description="Of the kind of problem.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="One sentence about this request.")
    request_id: str = Field(description="Finds the request in the server's log.")


def problem(request: Request, error: RequestError, **more: Any) -> Response:
    """The answer that an error becomes.

    Args:
        request: It failed.
        error: Why.
        more: Further members of the problem details.
    """
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if wants_page(request):
        user = getattr(request.state, "user", None)
        answer: Response = page(
            request, "problem.html", user, error.status, title=error.title, detail=error.detail
        )
    else:
        body = Problem(
            type="about:blank",
            title=error.title,
            status=error.status,
            detail=error.detail,
            request_id=getattr(request.state, "request_id", ""),
        )
        answer = JSONResponse(body.model_dump() | more, error.status, media_type=MEDIA_TYPE)
    answer.headers.update(headers)
    return answer


def wants_page(request: Request) -> bool:
    """Whether the answer is for a person with a browser."""
    if request.url.path.startswith(("/v1/", "/healthz", "/readyz", "/metrics")):
        return False
    return "text/html" in request.headers.get("accept", "")


def add_handlers(app: FastAPI) -> None:
    """Makes every error of a request such an answer."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return problem(request, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    # What the user sent is not repeated, only which fields are wrong and how.
    assert isinstance(error, RequestValidationError)
    lines, names = [], []
    for one in error.errors()[:5]:
        where = ".".join(str(part) for part in one["loc"] if isinstance(part, str))[:100]
        known = where if where.replace(".", "").replace("_", "").isalnum() else "request"
        lines.append(f"{known}: {one['type'].replace('_', ' ')}")
        names.append(known.rpartition(".")[2])
    if wants_page(request):
        lines = [f"This address or form has a value that is not valid: {', '.join(names)}."]
    return problem(request, UnprocessableError("; ".join(lines) or "The request is not valid."))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code < 400:
        return Response(status_code=error.status_code, headers=headers)
    known = RequestError(_DETAILS.get(error.status_code, "The request cannot be fulfilled."))
    known.status, known.title = error.status_code, HTTPStatus(error.status_code).phrase
    answer = problem(request, known)
    answer.headers.update({k: v for k, v in headers.items() if k.lower() in _PASSED_ON})
    if error.status_code == 405:
        answer.headers["Allow"] = ", ".join(sorted(_allowed(request)))
    return answer


def _allowed(request: Request) -> set[str]:
    """The methods of all routes at an address; the framework names those of the first one."""
    scope = {"type": "http", "path": request.scope["path"], "root_path": "", "headers": []}
    found = {
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        for route in request.app.routes
        if (method == "GET" or not isinstance(route, Mount))  # files are only read
        and route.matches(scope | {"method": method})[0] is Match.FULL
    }
    return found | {"HEAD"} if "GET" in found else found


_PASSED_ON = ("allow", "location", "hx-redirect")  # headers of an HTTPException

_DETAILS = {
    400: "The request cannot be parsed.",
    404: "There is nothing at this address.",
    405: "This address does not accept this method.",
    413: "The request is too large.",
}


def describe(app: FastAPI, *models: type[Problem]) -> None:
    """Adds the schemas of problems to the OpenAPI document; FastAPI adds those of routes only.

    Args:
        app: With all routes.
        models: That `documented` names.
    """
    of_routes = app.openapi
    _, made = models_json_schema(
        [(model, "serialization") for model in models],
        ref_template="#/components/schemas/{model}",
    )

    def openapi() -> dict[str, Any]:
        document = of_routes()
        schemas = document["components"]["schemas"]
        schemas.update({k: v for k, v in made["$defs"].items() if k not in schemas})
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def documented(
    *statuses: int, unprocessable: type[Problem] = Problem
) -> dict[int | str, dict[str, Any]]:
    """The error statuses of an operation, as OpenAPI describes them.

    Args:
        statuses: Besides those that every operation may answer.
        unprocessable: What a 422 contains.
    """
    kinds = {kind.status: kind.__doc__ for kind in _kinds()}
    names = {422: unprocessable.__name__}
    return {
        status: {
            "description": (kinds.get(status) or HTTPStatus(status).phrase).splitlines()[0],
            "content": {
                MEDIA_TYPE: {
                    "schema": {
                        "$ref": f"#/components/schemas/{names.get(status, Problem.__name__)}"
                    }
                }
            },
        }
        for status in sorted({400, 408, 413, 421, 422, 429, 431, 500, 503, *statuses})
    }


def _kinds() -> list[type[RequestError]]:
    return [RequestError, *RequestError.__subclasses__()]
