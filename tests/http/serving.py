"""The application served from this process, on a gateway of the test's own: no Kafka, no database."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from services.http.app import create
from services.http.gateway import Gateway
from services.http.role import serve
from services.http.viewers import Gate
from services.http.wake_ups import WakeUps


class FakeDesk:
    """Knows one order, `order-1`, and fails on everything else. Remembers what was sent."""

    ticks = Gateway.ticks

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.wake_ups = WakeUps([])

    async def order(self, viewer: Any, order_id: str) -> dict[str, Any]:
        return {"order_id": order_id, "version": 1, "available_actions": {}}

    async def must_see(self, viewer: Any, order_id: str) -> None:
        """Everybody may see it."""

    async def history(self, viewer: Any, order_id: str, after: int, limit: int) -> list[dict[str, Any]]:
        return []

    async def send(self, viewer: Any, order_id: str, name: str, data: Any, **options: Any) -> tuple[str, None]:
        self.sent.append({"order_id": order_id, "command": name, "data": data, **options})
        return "11111111-1111-1111-1111-111111111111", None


def development_gate() -> Gate:
    return Gate(jwks_url=None, key_file=None, issuer=None, audience=None)


@asynccontextmanager
async def served(gateway: Any = None, gate: Gate | None = None, public_url: str | None = None) -> AsyncIterator[str]:
    """The URL at which it answers."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        yield gateway or FakeDesk()

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    app = create(gate or development_gate(), opened, public_url)
    serving = asyncio.create_task(serve(app, listener, urlsplit(public_url or "").path))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        listener.close()
