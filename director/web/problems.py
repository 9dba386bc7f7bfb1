"""Errors of the API as RFC 9457 problem documents. No answer shows a stack trace."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, SerializationException, ValidationException

from director.errors import (
    EX_DATA,
    EX_REFUSED,
    EX_USAGE,
    BadRequest,
    OperationError,
    Refused,
    TryAgain,
    UnknownName,
)
from director.records import Problem

Bug = Callable[[str, Exception], object]
"""Called with a description of the request, and the error."""

PROBLEM_JSON = "application/problem+json"

STATUS_OF: dict[type[OperationError], int] = {
    UnknownName: 404,
    BadRequest: 400,
    TryAgain: 503,
    Refused: 409,
}
# Exit codes of the command line for requests that did not reach an operation.
EXIT_OF = {401: EX_REFUSED, 403: EX_REFUSED, 404: EX_USAGE, 405: EX_USAGE}

GONE = "client disconnected prematurely"
"""The framework's message about a client that closes the connection before its body is complete."""

# The framework's name for the body.
NAMED = {"data": "body"}

AnyRequest = Request[Any, Any, Any]


def problem(
    status: int, detail: str, exit_code: int, headers: dict[str, str] | None = None
) -> Response[bytes]:
    """A response with a problem document.

    Args:
        detail: one sentence that says why the request failed.
        exit_code: of the command line.
    """
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, exit_code=exit_code)
    return Response(
        msgspec.json.encode(body), status_code=status, media_type=PROBLEM_JSON, headers=headers or {}
    )


def operation_failed(_: AnyRequest, error: OperationError) -> Response[bytes]:
    status = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)
    return problem(status, str(error), error.exit_code, {"Retry-After": "1"} if status == 503 else None)


def request_failed(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """The answer to a request that the framework refuses: a wrong route, method, size, body or parameter."""
    status = error.status_code
    if error.detail == GONE:
        return Response(b"", status_code=400)  # the client does not read it
    if status >= 500:
        return unexpected(request, error)
    detail = _detail_of(request, error)
    # Without the framework's Content-Type, which is that of another rendering.
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() != "content-type"}
    return problem(status, detail, EXIT_OF.get(status, EX_DATA), headers)


def unreadable(request: AnyRequest, error: UnicodeDecodeError | RecursionError) -> Response[bytes]:
    """The answer to a body that the JSON decoder does not refuse: not UTF-8, or nested too deeply."""
    if request.scope["method"] not in ("POST", "PATCH"):
        return unexpected(request, error)
    if isinstance(error, RecursionError):
        return problem(400, "the body is nested too deeply", EX_DATA)
    return problem(400, f"the body is not UTF-8: {error.reason}", EX_DATA)


def unexpected(request: AnyRequest, error: Exception) -> Response[bytes]:
    request.app.state.bug(f"{request.scope['method']} {request.scope['path']} failed", error)
    detail = "internal error of the director; its log has the details"
    return problem(500, detail, 1, {"Connection": "close"})


def _detail_of(request: AnyRequest, error: HTTPException) -> str:
    path = request.scope["path"]
    if error.status_code == 404:
        return f"there is no {path}; /schema lists all paths"
    if error.status_code == 405:
        return f"{request.method} is not possible on {path}; /schema lists the methods"
    if error.status_code == 413:
        return "the body is too large; 64 KiB are possible"
    if isinstance(error.__cause__, SerializationException):
        return f"the body is not JSON: {error.detail}"
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        return "; ".join(
            f"{NAMED.get(problem['key'], problem['key'])}: {problem['message']}" for problem in error.extra
        )
    return error.detail
