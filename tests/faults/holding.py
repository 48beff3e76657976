"""A proxy that delays one request of a Kafka transaction until the next transaction, where it does most harm."""

import asyncio
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

from .proxy import Proxy


class Kind(IntEnum):
    """Requests that name a transactional id, by Kafka's API key."""

    PRODUCE = 0
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS = 24
    END = 26


@dataclass(frozen=True)
class Request:
    """A request and its whole frame. `epoch` is the producer's, for requests about a whole transaction."""

    kind: Kind
    frame: bytes
    epoch: int | None

    @property
    def correlation_id(self) -> bytes:
        return self.frame[8:12]


class Holding(Proxy):
    """Holds one request back and breaks its client's connection. Sends the request to the broker later.

    It holds back the next request of `kind` with `transactional_id`, or none while `kind` is None. The request reaches
    the broker in the middle of the next transaction: after some of its records, and before the rest or its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transactional_id = ""
        self.kind: Kind | None = None
        self.released = asyncio.Event()
        self.seen: list[Request] = []
        """All requests with the transactional id in their order, without the one that is held back."""
        self.held: Request | None = None
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, back}
        answers = asyncio.ensure_future(self._pass(there, writer))
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _frame(reader)
                if (request := self._of_transaction(frame)) is not None:
                    if request.kind is self.kind:
                        answers.cancel()
                        await asyncio.wait([answers])
                        self.kind, self.held, self._connection = None, request, (there, back)
                        self.seen.clear()
                        writer.transport.abort()
                        return
                    await self._release_before(request)
                    self.seen.append(request)
                back.write(frame)
                await back.drain()
        back.transport.abort()
        await answers

    def _of_transaction(self, frame: bytes) -> Request | None:
        """Returns the request in a frame if it has the transactional id, otherwise None."""
        key, _, _, length = struct.unpack_from(">hhih", frame, 4)
        at = 14 + max(length, 0)
        name = self.transactional_id.encode()
        if key not in list(Kind) or not name or frame[at + 2 : at + 2 + len(name)] != name:
            return None
        with_epoch = key in (Kind.ADD_PARTITIONS, Kind.END)
        epoch = struct.unpack_from(">qh", frame, at + 2 + len(name))[1] if with_epoch else None
        return Request(Kind(key), frame, epoch)

    async def _release_before(self, request: Request) -> None:
        if self._connection is None or self.held is None or request.kind not in (Kind.PRODUCE, Kind.END):
            return
        kinds = [seen.kind for seen in self.seen]
        ends = [n for n, kind in enumerate(kinds) if kind in (Kind.END, Kind.INIT_PRODUCER_ID)]
        if not ends or Kind.PRODUCE not in kinds[ends[-1] :]:
            return
        (there, back), self._connection = self._connection, None
        back.write(self.held.frame)
        while (await _frame(there))[4:8] != self.held.correlation_id:
            pass
        self.released.set()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(int.from_bytes(size))
