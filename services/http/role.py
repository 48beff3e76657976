"""The http role: runs the application in uvicorn, by default on loopback."""

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
from .gateway import Gateway
from .judged import JudgedCommands
from .listening import listen
from .viewers import Gate
from .wake_ups import WakeUps

log = logging.getLogger(__name__)


async def run(settings: Settings, topics: Topics, clock: Clock, ready: Callable[[str], None]) -> None:
    """Serves until cancelled. Calls `ready` with the URL. Raises SettingsError if it may not listen there."""
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
    async def gateway() -> AsyncIterator[Gateway]:
        wake_ups = WakeUps([shard.database for shard in settings.shards])
        with Databases.open(settings) as databases:
            async with Client(
                **settings.cluster.options, prefix=topics.prefix, partitions=topics.shard.total
            ) as client:
                ends = AIOKafkaConsumer(**settings.cluster.options, enable_auto_commit=False)
                await ends.start()
                judged = JudgedCommands(databases, wake_ups)
                tasks = [asyncio.create_task(task) for task in (wake_ups.run(), judged.run())]
                try:
                    ready(url)  # the socket listens already
                    shards = [Topics(settings.topic_prefix, shard.shard) for shard in settings.shards]
                    masters = settings.master_keys
                    yield Gateway(databases, client, ends, settings.cluster, shards, clock, wake_ups, judged, masters)
                finally:
                    for task in tasks:
                        task.cancel()
                    await ends.stop()

    await serve(
        create(gate, gateway, settings.http_public_url), listener, urlsplit(settings.http_public_url or "").path
    )


async def serve(app: ASGIApp, listener: socket.socket, public_path: str = "") -> None:
    """Serves until cancelled. `public_path` is the prefix that a proxy removes from the paths of requests."""
    _allow_many_files()
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        root_path=public_path,
        backlog=128,  # asyncio accepts up to this many connections before it can close any
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
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
    except SystemExit:  # it would end the event loop at once, without closing what is open
        raise RuntimeError("the application did not start; the log says why") from None


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, because the process handles signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _allow_many_files() -> None:
    """Raises the limit of open files to the largest allowed one. The default is often 1,024, which is hardly enough."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports an infinite limit but refuses to set it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
