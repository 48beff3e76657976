"""The ledger: compares the records of the commands topic with what became of each.

Each record must have exactly one outcome or parked command, and each of those must have a record. Senders' transactions
leave gaps in the offsets, so the ledger reads the records themselves. It merges them with the outcomes and parked
commands, both sorted by partition and offset, and keeps neither in memory.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import psycopg
from aiokafka import TopicPartition

from services.eventstore.database import connect_read_only
from services.eventstore.outcomes import RecordOutcome, outcomes_by_record
from services.eventstore.positions import commands_bases, judged_up_to
from services.kafka.cluster import Cluster
from services.kafka.read_topics import Stream, open_consumer
from services.kafka.topics import Topics, count_partitions
from services.shards.arithmetic import Shard

from .findings import Differences
from .verify_checkpoints import CannotVerify

_AT_ONCE = 20_000
_PROGRESS_EVERY = 10_000


@dataclass
class Account:
    """The numbers of records of one partition.

    If nothing is wrong, records + expired = accepted + rejected + repeated + reused + dead + parked + waiting.
    """

    partition: int
    """The number of the partition."""
    records: int = 0
    """Records on the topic."""
    expired: int = 0
    """Records that were handled and have left the topic."""
    accepted: int = 0
    """Records with an outcome of the kind `accepted`."""
    rejected: int = 0
    """Records with an outcome of the kind `rejected`."""
    repeated: int = 0
    """Records with an outcome of the kind `repeated`."""
    reused: int = 0
    """Records with an outcome of the kind `reused`."""
    dead: int = 0
    """Dead letters."""
    parked: int = 0
    """Parked commands."""
    waiting: int = 0
    """Records that the commands role has not judged yet."""


@dataclass(kw_only=True)
class Ledger(Differences):
    """An account for each partition. Differences name partition and offset."""

    partitions: list[Account] = field(default_factory=list)

    def add(self, other: "Ledger", shard: Shard) -> None:
        """Adds the ledger of a shard."""
        other.in_shard(shard)
        self.partitions += other.partitions
        self.note(other)


class _HandledRecords:
    """What became of the records, sorted by partition and offset. Reads from the database in a thread."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._source = outcomes_by_record(connection)
        self._buffer: deque[RecordOutcome] = deque()
        self._reading: asyncio.Future[deque[RecordOutcome]] | None = None

    async def peek(self) -> RecordOutcome | None:
        """Returns the next one without taking it, or None after the last."""
        if not self._buffer:
            self._reading = asyncio.ensure_future(asyncio.to_thread(lambda: deque(islice(self._source, _AT_ONCE))))
            self._buffer = await asyncio.shield(self._reading)
        return self._buffer[0] if self._buffer else None

    def take(self) -> None:
        self._buffer.popleft()

    async def close(self) -> None:
        """Stops reading, so that the connection can be closed."""
        if self._reading is not None and not self._reading.done():
            await asyncio.to_thread(self._connection.cancel_safe)
            await asyncio.wait([self._reading])
        self._source.close()


class _Book:
    """Keeps the account of one partition."""

    def __init__(self, partition: int, position: int, begin: int, ledger: Ledger) -> None:
        """`position`: the offset that the commands role reads next. `begin`: the first offset on the topic."""
        self._partition = partition
        self._position = position
        self._begin = begin
        self._ledger = ledger
        self._kinds: Counter[str] = Counter()
        self._records = 0
        self._settled = -1
        self._settled_as = ""

    def record(self, offset: int) -> None:
        """Enters a record. Call `handled` first with what became of it and of earlier records."""
        self._records += 1
        if offset == self._settled:
            return
        if offset < self._position:
            self._differs(offset, "nothing became of this record: no outcome, no dead letter, and it is not parked")
        else:
            self._kinds["waiting"] += 1

    def handled(self, offset: int, kind: str, *, on_topic: bool) -> None:
        """Enters what became of a record. `on_topic`: whether the topic has a record at this offset."""
        self._kinds[kind] += 1
        if offset == self._settled:
            self._differs(offset, f"it is there twice, {self._settled_as} and {kind}")
        elif offset >= self._position:
            self._differs(offset, f"it is {kind}, although the commands role has read only up to {self._position}")
        elif not on_topic and offset >= self._begin:
            self._differs(offset, f"{kind}, but there is no such record on the topic")
        self._kinds["expired"] += not on_topic and offset != self._settled and offset < self._begin
        self._settled, self._settled_as = offset, kind

    def account(self) -> Account:
        return Account(self._partition, self._records, **self._kinds)

    def _differs(self, offset: int, what: str) -> None:
        self._ledger.differs(f"{self._partition}/{offset}: {what}")


async def balance(database_url: str, cluster: Cluster, topics: Topics, progress: Callable[[int, int], None]) -> Ledger:
    """Returns the ledger of the shard's partitions as of now. The service may run meanwhile.

    Calls `progress(done, total)` with numbers of offsets. Raises TopicError, KafkaError, CannotVerify, psycopg.Error.
    """
    count = await count_partitions(cluster, topics)
    with connect_read_only(database_url) as connection:
        try:
            positions = await asyncio.to_thread(judged_up_to, connection)
            bases = await asyncio.to_thread(commands_bases, connection)
        except psycopg.errors.UndefinedTable as error:
            raise CannotVerify(
                f"This is not the service's database ({error}). Check RESOLUTION_DATABASE_URL."
            ) from None
        source = _HandledRecords(connection)
        try:
            partitions = topics.shard.partitions(count)
            return await _balance(cluster, topics.commands, partitions, positions, bases, source, progress)
        finally:
            await source.close()


async def _balance(
    cluster: Cluster,
    topic: str,
    partitions: Sequence[int],
    positions: dict[int, int],
    bases: dict[int, int],
    source: _HandledRecords,
    progress: Callable[[int, int], None],
) -> Ledger:
    ledger, done = Ledger(), 0
    everywhere = [TopicPartition(topic, number) for number in partitions]
    async with open_consumer(cluster) as consumer:
        begins, ends = await consumer.beginning_offsets(everywhere), await consumer.end_offsets(everywhere)
        of = sum(ends[where] - begins[where] for where in everywhere)
        for where in everywhere:
            await _report_foreign(source, ledger, where.partition)
            consumer.assign([where])
            # Read again, because records may expire while a large topic is read.
            base = bases.get(where.partition, 0)
            begin = base + (await consumer.beginning_offsets([where]))[where]
            book = _Book(where.partition, positions.get(where.partition, 0), begin, ledger)
            async for offset in _merge(Stream(consumer, where, begin, base + ends[where], base), source, book):
                if offset % _PROGRESS_EVERY == 0:
                    progress(done + offset - begin, of)
            done += ends[where] - begins[where]
            ledger.partitions.append(book.account())
        await _report_foreign(source, ledger, None)
        return ledger


async def _merge(stream: Stream, source: _HandledRecords, book: _Book) -> AsyncIterator[int]:
    """Enters a partition's records and what became of them, in the order of the offsets. Yields the offsets."""
    partition = stream.partition
    while await stream.peek() is not None:
        offset = stream.take().offset
        while (handled := await source.peek()) is not None and handled[:2] <= (partition, offset):
            source.take()
            book.handled(handled.record_offset, handled.became, on_topic=handled.record_offset == offset)
        book.record(offset)
        yield offset
    while (handled := await source.peek()) is not None and handled.partition == partition:
        source.take()
        book.handled(handled.record_offset, handled.became, on_topic=False)


async def _report_foreign(source: _HandledRecords, ledger: Ledger, partition: int | None) -> None:
    """Reports what is stored for partitions before this one, or for any if None: the shard has no such partitions."""
    while (handled := await source.peek()) is not None and (partition is None or handled.partition < partition):
        source.take()
        ledger.differs(
            f"{handled.partition}/{handled.record_offset}: {handled.became}, but this database has no such partition"
        )
