"""Failures as RFC 9457 problem details."""

from collections.abc import Iterator
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
    """For the OpenAPI document: these answers are problem details."""
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
    """The same for what does not exist and for what is none of the viewer's business."""
    return Problem(404, f"There is no such {what}, or it is not yours to see.")


def answer(status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """Problem details (RFC 9457) as a response."""
    body = {"type": "about:blank", "title": _TITLES.get(status, "Error"), "status": status, "detail": detail} | more
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def of_bug(request: Request, error: Exception) -> JSONResponse:
    """The log has the traceback; the answer has nothing of it, which might be confidential (D16)."""
    return answer(500, "The service failed on this request. Try again; if that fails too, tell its operators.")


async def of_problem(request: Request, problem: Exception) -> JSONResponse:
    """Answers a Problem."""
    assert isinstance(problem, Problem)
    return answer(problem.status, problem.detail, problem.headers, **problem.more)


async def of_http(request: Request, error: Exception) -> JSONResponse:
    """Answers what Starlette refuses, such as an unknown address."""
    assert isinstance(error, HTTPException)
    return answer(error.status_code, str(error.detail), dict(error.headers or {}))


async def of_validation(request: Request, error: Exception) -> JSONResponse:
    """Path and reason of each error; no value, which might be confidential (D16)."""
    assert isinstance(error, RequestValidationError)
    errors = [{"path": ".".join(map(str, e["loc"])), "reason": e["msg"]} for e in error.errors()[:20]]
    return answer(422, "The request does not fit its schema; errors says where.", errors=errors)
