"""Errors as RFC 9457 problem details."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_TITLES = {
    400: "Bad request",
    401: "Who are you?",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Not yet",
    413: "Too large",
    415: "Unsupported media type",
    422: "Invalid",
    431: "Headers too large",
    500: "Our mistake",
    501: "Not implemented",
    503: "Not now",
}


_UUID = "should be a UUID, such as 123e4567-e89b-12d3-a456-426614174000"
_CURSOR = "should be the value of next in an earlier answer"
_WHOLE_NUMBER = "should be a whole number"
_OBJECT = "should be an object"
_PATTERNS = {
    "order_id": "should have 1 to 64 letters, digits, dots, underscores and hyphens",
    "command_id": _UUID,
    "idempotency-key": _UUID,
    "cursor": _CURSOR,
    "orders": _CURSOR,
    "to_answer": _CURSOR,
    "awaiting_answer": _CURSOR,
    "last-event-id": "should be the id of an event of this stream, which is a number",
}
"""What a field's pattern asks for, by field."""
_REASONS = {
    "missing": "is missing: add it",
    "extra_forbidden": "is not a field of this request: leave it out",
    "string_type": "should be a text",
    "string_too_short": "should not be empty",
    "string_too_long": "should have at most {max_length} characters",
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": "should be a smaller number",
    "int_type": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "greater_than_equal": "should be at least {ge}",
    "less_than_equal": "should be at most {le}",
    "uuid_parsing": _UUID,
    "uuid_type": _UUID,
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
}
"""What to do about an error, by pydantic's type of error."""

_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What to do instead."},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describes these statuses in the OpenAPI document as problem details."""
    content = {"application/problem+json": {"schema": _SCHEMA}}
    return {status: {"description": _TITLES[status], "content": content} for status in statuses}


class Problem(Exception):
    """Ends a request with a status and a sentence that says what to do instead."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers, more


@contextmanager
def suppress_status(status: int) -> Iterator[None]:
    """Ends the block at a Problem of this status."""
    try:
        yield
    except Problem as problem:
        if problem.status != status:
            raise


def unknown(what: str) -> Problem:
    """Returns one and the same problem for things that do not exist and things that the viewer may not see."""
    return Problem(404, f"There is no such {what}, or it is not yours to see: check its id and your login.")


def answer(status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """Returns problem details (RFC 9457) as a response."""
    body = {"type": "about:blank", "title": _TITLES.get(status, "Error"), "status": status, "detail": detail} | more
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def of_bug(request: Request, error: Exception) -> JSONResponse:
    """Answers an unexpected exception. Only the log has the traceback, because it may be confidential (D16)."""
    return answer(500, "The service failed on this request. Try again; if that fails too, tell its operators.")


async def of_problem(request: Request, problem: Exception) -> JSONResponse:
    """Answers a Problem."""
    assert isinstance(problem, Problem)
    return answer(problem.status, problem.detail, problem.headers, **problem.more)


async def of_http(request: Request, error: Exception) -> JSONResponse:
    """Answers a request that Starlette refuses, such as one with an unknown path."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            root = request.scope.get("app_root_path", request.scope["root_path"])
            detail = (
                f"There is nothing at this address: {root}/openapi.json lists the API's, the pages start at {root}/."
            )
        case 405:
            allowed = " or ".join(headers["Allow"].rsplit(", ", 1))
            detail = f"This address does not take {request.method}: use {allowed}."
        case _:
            detail = str(error.detail)
    return answer(error.status_code, detail, headers)


async def of_validation(request: Request, error: Exception) -> JSONResponse:
    """Answers with the path and the reason of each error. Leaves out values, which may be confidential (D16)."""
    assert isinstance(error, RequestValidationError)
    errors = [{"path": ".".join(map(str, e["loc"])), "reason": _reason(e)} for e in error.errors()[:20]]
    return answer(422, "The request does not fit its schema; errors says where.", errors=errors)


def _reason(error: Mapping[str, Any]) -> str:
    """Says what to do, without patterns and type names."""
    if error["type"] == "string_pattern_mismatch":
        reason = _PATTERNS.get(str(error["loc"][-1]))
    else:
        reason = _REASONS.get(error["type"])
    return (reason or "is not what is needed: see /openapi.json").format_map(error.get("ctx", {}))
