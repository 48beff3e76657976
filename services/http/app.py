"""The FastAPI application: its routes, error handlers and middlewares."""

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
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.telemetry import role_metrics

from . import api, pages, problems
from .gateway import Gateway
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
_MAX_REQUESTS = 900
"""Requests at the same time. Each page with live updates keeps one open."""


def create(
    gate: Gate, gateway: Callable[[], AbstractAsyncContextManager[Gateway]], public_url: str | None = None
) -> ASGIApp:
    """Returns the application. It opens its gateway with `gateway()` when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gate.open(), gateway() as app.state.gateway:
            yield

    app = FastAPI(
        title="Resolution Center",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # FastAPI would redirect to the Host header that a proxy sends
    )
    public = urlsplit(public_url or "")
    app.state.gate = gate
    app.state.public_origin = f"{public.scheme}://{public.netloc}" if public_url else None
    pages.serve_under(public.path)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(problems.Problem, _page_or_json(problems.of_problem))
    app.add_exception_handler(HTTPException, _page_or_json(_of_http))
    app.add_exception_handler(RequestValidationError, _page_or_json(problems.of_validation))
    app.add_exception_handler(Exception, _page_or_json(problems.of_bug))
    # These wrap FastAPI from outside, because responses to unexpected exceptions bypass FastAPI's own middlewares.
    return _Headers(_Head(_Measured(_Complete(_Busy(app, app), app))))


async def _of_http(request: Request, error: Exception) -> Response:
    """Answers a request that Starlette refuses. Names all methods of the address; Starlette names one route's."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        routes = [route for route in request.app.routes if not isinstance(route, Mount)]  # files name their own methods
        scopes = [{**request.scope, "method": method} for method in sorted(_METHODS)]
        found = [s["method"] for s in scopes if any(route.matches(s)[0] is Match.FULL for route in routes)]
        allowed = sorted([*found, "HEAD"]) if "GET" in found else found
        error.headers = {"Allow": ", ".join(allowed)} if allowed else error.headers
    return await problems.of_http(request, error)


def _page_or_json(
    handler: Callable[[Request, Exception], Awaitable[Response]],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Answers a browser with an error page, and a program with the handler's problem details."""

    async def handle(request: Request, error: Exception) -> Response:
        response = await handler(request, error)
        path = request.scope["path"].removeprefix(request.scope["root_path"])
        if path.startswith("/api") or "text/html" not in request.headers.get("accept", ""):
            return response
        return await pages.failure(request, response)

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
    """Adds the headers that restrict browsers to every response, and puts the public path before redirects."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        public_path = scope["root_path"]
        is_static = scope["path"].startswith(f"{public_path}/static")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not is_static or message["status"] >= 400:
                    headers.setdefault("Cache-Control", "no-store")
                if headers.get("Location", "").startswith("/"):
                    headers["Location"] = public_path + headers["Location"]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class _Head(_OfRequests):
    """Answers HEAD like GET, without the body. A body may be a stream that never ends."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_start(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})

        if scope["method"] == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, send_start)
        else:
            await self._app(scope, receive, send)


class _Measured(_OfRequests):
    """Counts requests by the pattern of their path, when their response begins."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()

        async def send_measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                role_metrics.answered(method, route, message["status"], perf_counter() - started)
            await send(message)

        await self._app(scope, receive, send_measured)


class _Refusing(_OfRequests):
    """Base class: may refuse a request before the application gets it."""

    def __init__(self, app: ASGIApp, root: FastAPI) -> None:
        super().__init__(app)
        self._root = root

    async def refuse(self, problem: problems.Problem, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers like the application would."""
        request = Request({**scope, "app": self._root}, receive)
        response = await _page_or_json(problems.of_problem)(request, problem)
        await response(scope, receive, send)


class _Complete(_Refusing):
    """Passes a request on once its whole body has arrived. Refuses bodies that are larger than a command may be."""

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
            detail = f"The body has more than {MAX_COMMAND_BYTES} bytes: send less, such as shorter texts."
            await self.refuse(problems.Problem(413, detail), scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": bytes(body)}]

        async def receive_complete() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, receive_complete, send)


class _Busy(_Refusing):
    """Refuses requests while too many others are being answered."""

    _running = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._running >= _MAX_REQUESTS:
            detail = "Too many requests at the same time; try again soon."
            await self.refuse(problems.Problem(503, detail, {"Retry-After": "5"}), scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1
