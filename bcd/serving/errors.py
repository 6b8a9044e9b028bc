"""Errors of a request, each with its HTTP status."""

from __future__ import annotations


class RequestError(Exception):
    """A request that cannot be fulfilled.

    Args:
        detail: One sentence for the person who asked; never a name, path or traceback.
        retry_after: Seconds after which another try may succeed; None if it would not.

    Attributes:
        status: The HTTP status.
        title: Of the kind of problem.
    """

    status = 400
    title = "Bad request"

    def __init__(self, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class UnauthorizedError(RequestError):
    """Nobody is logged in, or the token is not valid."""

    status, title = 401, "Unauthorized"


class ForbiddenError(RequestError):
    """The user's roles do not include this, or the CSRF token is missing."""

    status, title = 403, "Forbidden"


class NotFoundError(RequestError):
    """There is no such case, image or user."""

    status, title = 404, "Not found"


class ConflictError(RequestError):
    """It contradicts what is recorded, such as a change to a signed case."""

    status, title = 409, "Conflict"


class SlowError(RequestError):
    """The request's body did not arrive in time."""

    status, title = 408, "Request timed out"


class TooLargeError(RequestError):
    """More bytes, pixels or images than allowed."""

    status, title = 413, "Too large"


class MediaTypeError(RequestError):
    """The body is of a type that is not accepted here."""

    status, title = 415, "Unsupported media type"


class MisdirectedError(RequestError):
    """The host in the request is not this server."""

    status, title = 421, "Misdirected request"


class HeadersTooLargeError(RequestError):
    """The address or the headers are too long."""

    status, title = 431, "Headers too large"


class UnprocessableError(RequestError):
    """No image could be answered, or a value is not valid."""

    status, title = 422, "Unprocessable"


class BusyError(RequestError):
    """The queue is full, or too many requests came from one client."""

    status, title = 429, "Too many requests"


class InternalError(RequestError):
    """A fault of the server; its log says more."""

    status, title = 500, "Internal error"


class UnavailableError(RequestError):
    """The server is stopping, or its model or records cannot be used."""

    status, title = 503, "Unavailable"


class TimedOutError(RequestError):
    """No answer in time."""

    status, title = 504, "Timed out"


class StorageFullError(RequestError):
    """The disk is full: nothing was recorded."""

    status, title = 507, "Storage full"
