"""A TCP proxy before a server, so that a test can cut, delay, refuse or silence connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from services.embedded.kafka import Kafka

from . import packets


class Proxy:
    """Passes bytes between its own port and the server's."""

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self.delay = 0.0
        """Seconds by which each chunk of data is delayed."""
        self.reachable = True
        self._vanished = False
        self._connections: set[asyncio.StreamWriter] = set()
        self._listening: list[Any] = []

    @classmethod
    @asynccontextmanager
    async def listening(cls, port: int = 0) -> AsyncIterator["Proxy"]:
        """Starts listening, by default on a free port."""
        proxy = cls()
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", port)
        proxy._listening = list(server.sockets)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut()

    def cut(self) -> None:
        """Ends every connection at once, with a reset."""
        for writer in self._connections:
            writer.transport.abort()

    def vanish(self) -> None:
        """Drops every packet from now on, in both directions, and those of new connections. Linux only."""
        self._vanished = True
        for each in self._sockets():
            packets.drop(each)

    def appear(self) -> None:
        """Accepts packets again. Connections that neither side has closed continue."""
        self._vanished = False
        for each in self._sockets():
            packets.take(each)

    def _sockets(self) -> list[Any]:
        return [*self._listening, *(writer.get_extra_info("socket") for writer in self._connections)]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.reachable:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, back}
        if self._vanished:  # accepted a moment before
            self.vanish()
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        self._connections -= {writer, back}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class BehindProxy(Kafka):
    """A broker that tells its clients the proxy's port. `start` returns the proxy's address."""

    def __init__(self, folder: Path, proxy: Proxy) -> None:
        super().__init__(folder, lambda _: None)
        self._proxy = proxy

    def start(self) -> str:
        self._proxy.target = int(super().start().rpartition(":")[2])
        return f"127.0.0.1:{self._proxy.port}"

    def _configure(self, folder: Path, data: Path, port: int, controller: int) -> None:
        super()._configure(folder, data, port, controller)
        properties = folder / "server.properties"
        told, tells = (f"advertised.listeners=PLAINTEXT://127.0.0.1:{number}" for number in (port, self._proxy.port))
        properties.write_text(properties.read_text().replace(told, tells))
        self._proxy.target = port  # it speaks to itself through the proxy too, while it starts
