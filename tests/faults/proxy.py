"""A broker behind a TCP proxy, so that a test can cut, delay or refuse its connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from services.servers.kafka import Kafka


class Proxy:
    """Passes bytes on between a port of its own and the broker's."""

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self.delay = 0.0
        """Seconds by which each piece of data is held up."""
        self.reachable = True
        self._connections: set[asyncio.StreamWriter] = set()

    @classmethod
    @asynccontextmanager
    async def listening(cls) -> AsyncIterator["Proxy"]:
        proxy = cls()
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
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
