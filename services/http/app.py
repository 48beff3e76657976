"""The FastAPI application: routes, failures, headers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from resolution_contracts.topics import MAX_COMMAND_BYTES
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.telemetry import role_metrics

from . import api, pages, problems
from .gateway import Desk
from .viewers import Gate

STATIC = Path(__file__).with_name("static")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_METHODS = {"GET", "POST"}
_MOST_REQUESTS = 900
"""At the same time; pages that follow by themselves count, each has one open."""


def create(gate: Gate, desk: Callable[[], AbstractAsyncContextManager[Desk]], public_url: str | None = None) -> ASGIApp:
    """The application; `desk` opens what it works with while it runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gate.open(), desk() as app.state.desk:
            yield

    app = FastAPI(
        title="Resolution Center",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would redirect to the Host that a proxy names
    )
    public = urlsplit(public_url or "")
    app.state.gate = gate
    app.state.public_origin = f"{public.scheme}://{public.netloc}" if public_url else None
    pages.serve_under(public.path)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(problems.Problem, _told_as(problems.of_problem))
    app.add_exception_handler(HTTPException, _told_as(problems.of_http))
    app.add_exception_handler(RequestValidationError, _told_as(problems.of_validation))
    app.add_exception_handler(Exception, _told_as(problems.of_bug))
    # Around all of FastAPI, and not as its middlewares, which its answers to unexpected exceptions do not go through.
    return _Headers(_Head(_Measured(_Complete(_Busy(app)))))


def _told_as(
    handler: Callable[[Request, Exception], Awaitable[Response]],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """To a person in a page, to a program as problem details."""

    async def handle(request: Request, error: Exception) -> Response:
        told = await handler(request, error)
        path = request.scope["path"].removeprefix(request.scope["root_path"])
        if path.startswith("/api") or "text/html" not in request.headers.get("accept", ""):
            return told
        return await pages.failure(request, told)

    return handle


class _OfRequests:
    """Base class: handles HTTP requests, passes every other scope through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.handle if scope["type"] == "http" else self._app)(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class _Headers(_OfRequests):
    """Gives every answer the headers that restrict browsers, and redirects the public path."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        public_path = scope["root_path"]
        is_static = scope["path"].startswith(f"{public_path}/static")

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not is_static or message["status"] >= 400:
                    headers.setdefault("Cache-Control", "no-store")
                if headers.get("Location", "").startswith("/"):
                    headers["Location"] = public_path + headers["Location"]
            await send(message)

        await self._app(scope, receive, told)


class _Head(_OfRequests):
    """Answers HEAD like GET, but for the body, which may never end."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def begun(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})

        if scope["method"] == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, begun)
        else:
            await self._app(scope, receive, send)


class _Measured(_OfRequests):
    """Counts requests by the pattern of their path, when their answer begins."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                role_metrics.answered(method, route, message["status"], perf_counter() - started)
            await send(message)

        await self._app(scope, receive, measured)


class _Complete(_OfRequests):
    """Lets a request through once all of it is there, and refuses bodies larger than a command may be."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"")
        too_large = declared.isdigit() and int(declared) > MAX_COMMAND_BYTES
        body, more = bytearray(), not too_large
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            too_large = len(body) > MAX_COMMAND_BYTES
            more = message.get("more_body", False) and not too_large
        if too_large:
            await problems.answer(413, f"More than {MAX_COMMAND_BYTES} bytes.")(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body)}]

        async def received() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, received, send)


class _Busy(_OfRequests):
    """Refuses requests while too many others are being answered."""

    _running = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._running >= _MOST_REQUESTS:
            answer = problems.answer(503, "Too many requests at the same time; try again soon.", {"Retry-After": "5"})
            await answer(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1
