"""The FastAPI application: routes, failures, headers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from time import perf_counter

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from resolution_contracts.topics import MAX_COMMAND_BYTES
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.telemetry import measures

from . import api, pages, problems
from .desk import Desk
from .who import Gate

STATIC = Path(__file__).with_name("static")
_METHODS = {"GET", "HEAD", "POST"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create(gate: Gate, desk: Callable[[], AbstractAsyncContextManager[Desk]]) -> FastAPI:
    """The application; `desk` opens what it works with while it runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with desk() as app.state.desk:
            yield

    app = FastAPI(title="Resolution Center", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.gate = gate
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(problems.Problem, _told_as(problems.of_problem))
    app.add_exception_handler(HTTPException, _told_as(problems.of_http))
    app.add_exception_handler(RequestValidationError, _told_as(problems.of_validation))
    app.add_middleware(_Headers)
    app.add_middleware(_Limit)
    app.add_middleware(_Measured)
    return app


def _told_as(
    handler: Callable[[Request, Exception], Awaitable[Response]],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """To a person in a page, to a program as problem details."""

    async def handle(request: Request, error: Exception) -> Response:
        told = await handler(request, error)
        if request.url.path.startswith("/api") or "text/html" not in request.headers.get("accept", ""):
            return told
        return await pages.failure(request, told)

    return handle


class _OfRequests:
    """A middleware of requests; what is none passes by."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.handle if scope["type"] == "http" else self._app)(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class _Headers(_OfRequests):
    """Tells browsers what every answer forbids them, where it does not say so itself."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, told)


class _Limit(_OfRequests):
    """Refuses bodies larger than a command may be, also those that do not say so."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_COMMAND_BYTES:
                raise HTTPException(413, f"More than {MAX_COMMAND_BYTES} bytes.")
            return message

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_COMMAND_BYTES:
            answer = problems.answer(413, f"More than {MAX_COMMAND_BYTES} bytes.")
            await answer(scope, receive, send)
            return
        await self._app(scope, limited, send)


class _Measured(_OfRequests):
    """Counts requests by the pattern of their path, when their answer begins."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                measures.answered(method, route, message["status"], perf_counter() - started)
            await send(message)

        await self._app(scope, receive, measured)
