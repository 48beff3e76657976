"""The http role: uvicorn, on loopback unless it is told otherwise."""

import asyncio
import ipaddress
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from urllib.parse import urlsplit

import uvicorn
from aiokafka import AIOKafkaConsumer
from resolution_contracts.client import Client
from starlette.types import ASGIApp

from services.clock import Clock
from services.kafka.topics import Topics
from services.settings import Settings, SettingsError

from .app import create
from .connection_limits import Connection
from .databases import Databases
from .gateway import Desk
from .listening import listen
from .viewers import Gate
from .wake_ups import Pulse

log = logging.getLogger(__name__)


async def run(settings: Settings, topics: Topics, clock: Clock, ready: Callable[[str], None]) -> None:
    """Serves until cancelled; `ready` is told the URL. Raises SettingsError where it may not listen there."""
    gate = Gate(
        jwks_url=settings.jwt_jwks_url,
        key_file=settings.jwt_key_file,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        login_url=settings.http_login_url,
    )
    safe = settings.http_development_login_anywhere or _is_loopback(settings.http_host)
    if gate.development and not safe:
        raise SettingsError(
            f"RESOLUTION_HTTP_HOST is {settings.http_host}, but without RESOLUTION_JWT_JWKS_URL or "
            "RESOLUTION_JWT_KEY_FILE anybody could log in as anybody: set one, or listen on 127.0.0.1."
        )

    listener = listen(settings.http_host, settings.http_port, "RESOLUTION_HTTP_PORT")
    url = f"http://{settings.http_host}:{listener.getsockname()[1]}"

    @asynccontextmanager
    async def desk() -> AsyncIterator[Desk]:
        pulse = Pulse([one.database for one in settings.shards])
        with Databases.open(settings) as databases:
            async with Client(
                **settings.cluster.options, prefix=topics.prefix, partitions=topics.shard.total
            ) as client:
                ends = AIOKafkaConsumer(**settings.cluster.options, enable_auto_commit=False)
                await ends.start()
                beating = asyncio.create_task(pulse.run())
                try:
                    ready(url)  # the socket listens already
                    shards = [Topics(settings.topic_prefix, one.shard) for one in settings.shards]
                    masters = settings.master_keys
                    yield Desk(databases, client, ends, settings.cluster, shards, clock, pulse, masters)
                finally:
                    beating.cancel()
                    await ends.stop()

    await serve(create(gate, desk, settings.http_public_url), listener, urlsplit(settings.http_public_url or "").path)


async def serve(app: ASGIApp, listener: socket.socket, public_path: str = "") -> None:
    """Serves until cancelled; `public_path` is what a proxy takes off the paths of requests."""
    _allow_many_files()
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        root_path=public_path,
        backlog=128,  # asyncio accepts so many at once, before any of them can be closed
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=32_768,
    )
    server = _Server(config)
    serving = asyncio.create_task(_serve(server, listener))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        await server.serve([listener])
    except SystemExit:  # would end the event loop at once, and leave what is open to a thread that is gone by then
        raise RuntimeError("the application did not start; the log says why") from None


class _Server(uvicorn.Server):
    """Leaves the signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _allow_many_files() -> None:
    """As many open files as the system lets this process have: often it begins with 1,024, hardly enough."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says infinite, and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
