"""A sender that writes record batches as they are given, over a connection of its own."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

_PRODUCE, _FETCH, _FIND_COORDINATOR, _INIT_PRODUCER_ID, _ADD_PARTITIONS, _END_TXN = 0, 1, 10, 22, 24, 26
_ALL = -1
_TIMEOUT_MS = 30_000
_MOST_FETCHED = 16 * 1024 * 1024


@dataclass(frozen=True)
class Taken:
    """Where the broker put a batch."""

    partition: int
    base_offset: int


@dataclass(frozen=True)
class Refused:
    """Why the broker did not take a batch: Kafka's error code, and its words, if it has any."""

    code: int
    why: str


class BrokerHungUp(Exception):
    """The broker closed the connection instead of answering."""


class RawSender:
    """Speaks with one broker, which has to lead all partitions. Requests may follow one another without waiting."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._answers = asyncio.create_task(self._receive())

    @classmethod
    @asynccontextmanager
    async def connected(cls, servers: str) -> AsyncIterator["RawSender"]:
        host, _, port = servers.rpartition(":")
        sender = cls(*await asyncio.open_connection(host, int(port)))
        try:
            yield sender
        finally:
            sender._answers.cancel()
            sender._writer.close()

    async def produce(
        self, topic: str, partition: int, batch: bytes, transactional_id: str | None = None
    ) -> Taken | Refused:
        """Raises BrokerHungUp."""
        body = _string(transactional_id) + struct.pack(">hi", _ALL, _TIMEOUT_MS)
        body += _array(_string(topic) + _array(struct.pack(">ii", partition, len(batch)) + batch))
        answer = _Answer(await self._ask(_PRODUCE, 8, body))
        answer.string()
        answer.skip(8)
        code, base_offset = answer.unpack(">hq")
        answer.skip(16)
        whys = [answer.record_error() for _ in range(answer.unpack(">i")[0])]
        why = answer.string()
        return Refused(code, "; ".join([why, *whys])) if code else Taken(partition, base_offset)

    async def fetch(self, topic: str, partition: int, offset: int) -> tuple[int, bytes]:
        """The partition's end, and batches as they are stored, from the one that has this offset; the last may be cut."""
        body = struct.pack(">iiiib", -1, 0, 0, _MOST_FETCHED, 0)
        body += _array(_string(topic) + _array(struct.pack(">iqi", partition, offset, _MOST_FETCHED)))
        answer = _Answer(await self._ask(_FETCH, 4, body), 8)
        answer.string()
        answer.skip(8)
        code, end, _, aborted = answer.unpack(">hqqi")
        if code:
            raise RuntimeError(f"{topic}/{partition} cannot be fetched: error {code}")
        answer.skip(16 * max(aborted, 0))
        return end, answer.rest()

    async def begin(self, transactional_id: str) -> tuple[int, int]:
        """Takes over a transactional id, ending what was open under it; returns the producer's id and epoch.

        Raises TimeoutError.
        """
        async with asyncio.timeout(_TIMEOUT_MS / 1000):
            while True:
                await self._ask(_FIND_COORDINATOR, 1, _string(transactional_id) + b"\x01")  # else there may be none
                body = _string(transactional_id) + struct.pack(">i", _TIMEOUT_MS)
                _, code, id_, epoch = struct.unpack(">ihqh", await self._ask(_INIT_PRODUCER_ID, 1, body))
                if code == 0:
                    return id_, epoch
                await asyncio.sleep(0.05)  # the coordinator is being made, or ends the last transaction

    async def add_partition(self, transactional_id: str, producer: tuple[int, int], topic: str, partition: int) -> int:
        """To the transaction; the first one begins it. Returns Kafka's error code."""
        body = _string(transactional_id) + struct.pack(">qh", *producer)
        body += _array(_string(topic) + _array(struct.pack(">i", partition)))
        return int(struct.unpack(">h", (await self._ask(_ADD_PARTITIONS, 1, body))[-2:])[0])

    async def end(self, transactional_id: str, producer: tuple[int, int], *, commit: bool) -> int:
        """The transaction. Returns Kafka's error code."""
        body = _string(transactional_id) + struct.pack(">qh?", *producer, commit)
        return int(struct.unpack(">ih", await self._ask(_END_TXN, 1, body))[1])

    async def _ask(self, api: int, version: int, body: bytes) -> bytes:
        number = next(self._numbers)
        request = struct.pack(">hhi", api, version, number) + _string("fuzz") + body
        self._waiting[number] = answer = asyncio.get_running_loop().create_future()
        if self._answers.done():
            raise BrokerHungUp
        self._writer.write(struct.pack(">i", len(request)) + request)
        return await answer

    async def _receive(self) -> None:
        try:
            while True:
                [length] = struct.unpack(">i", await self._reader.readexactly(4))
                answer = await self._reader.readexactly(length)
                self._waiting.pop(struct.unpack_from(">i", answer)[0]).set_result(answer[4:])
        except (asyncio.IncompleteReadError, OSError):
            for waiting in self._waiting.values():
                waiting.set_exception(BrokerHungUp())


class _Answer:
    """What a broker says about one partition of one topic."""

    def __init__(self, data: bytes, position: int = 4) -> None:
        self._data = data
        self._position = position

    def skip(self, length: int) -> None:
        self._position += length

    def unpack(self, layout: str) -> tuple[int, ...]:
        self._position += struct.calcsize(layout)
        return struct.unpack_from(layout, self._data, self._position - struct.calcsize(layout))

    def string(self) -> str:
        [length] = self.unpack(">h")
        if length < 0:
            return ""
        self._position += length
        return self._data[self._position - length : self._position].decode()

    def rest(self) -> bytes:
        [length] = self.unpack(">i")
        return self._data[self._position : self._position + max(length, 0)]

    def record_error(self) -> str:
        self.skip(4)
        return self.string()


def _string(text: str | None) -> bytes:
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(text.encode())) + text.encode()


def _array(only: bytes) -> bytes:
    return struct.pack(">i", 1) + only
