"""A PostgreSQL server behind addresses that can vanish: packets are dropped, and no connection is closed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from psycopg.conninfo import conninfo_to_dict

from . import packets


class Address:
    """A port of 127.0.0.1 that passes bytes on to a server's socket.

    While it has vanished the kernel drops what comes, before it could acknowledge it, and takes no new connection: as
    where a machine or its network is gone. While it hangs the kernel acknowledges everything, and nobody answers.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._sockets: set[socket.socket] = set()
        self._going = asyncio.Event()
        self._going.set()
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def of(cls, database: str) -> AsyncIterator["Address"]:
        """Before the server of a URL that names a socket's folder."""
        parameters = conninfo_to_dict(database)
        address = cls(f"{parameters['host']}/.s.PGSQL.{parameters.get('port') or 5432}")
        server = await asyncio.start_server(address._accept, "127.0.0.1", 0)
        listening = server.sockets[0]
        address.port = listening.getsockname()[1]
        address._sockets.add(socket.socket(fileno=socket.dup(listening.fileno())))
        try:
            yield address
        finally:
            address.back()
            server.close()

    def vanish(self) -> None:
        for one in self._sockets:
            packets.drop(one)
        self._going.clear()

    def hang(self) -> None:
        self._going.clear()

    def back(self) -> None:
        for one in self._sockets:
            packets.take(one)
        self._going.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno()))
        self._sockets.add(own)
        try:
            await self._going.wait()
            there, back = await asyncio.open_unix_connection(self._path)
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        finally:
            writer.transport.abort()
            self._sockets.discard(own)
            own.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._going.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
