"""Reads topics up to an end that was measured before: whole ones, parts of them, and their last records.

Everything that reads a topic other than by following it does it here. Readers see committed records only, and wait for
transactions that are under way before the end. A record that cannot be decoded says so (`Record.undecodable`), and so
does each offset that is damaged on the broker's disk.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.judging.record import Record

from .cluster import Cluster
from .record_batches import UnreadablePartition, poll
from .topics import partition_counts

_AT_ONCE = 2000
_LOOK_AHEAD = 200
_LARGEST_FETCH = 8 * 1024 * 1024
_LAST_RECORDS = 200

Ends = dict[str, dict[int, int]]
"""By topic and partition, an offset."""


class Stream:
    """One partition's committed records up to an end that was measured before.

    All offsets are the topic's plus `base`.
    """

    def __init__(self, consumer: AIOKafkaConsumer, where: TopicPartition, start: int, end: int, base: int = 0) -> None:
        self._consumer = consumer
        self._where = where
        self._end = end
        self._base = base
        self._read: deque[Record] = deque()
        self.topic, self.partition = where.topic, where.partition
        self.position = start
        consumer.seek(where, start - base)

    async def peek(self) -> Record | None:
        """The next record; None behind the last. Waits for transactions under way before the end."""
        if not self._read:
            await self._fetch()
        return self._read[0] if self._read else None

    def take(self) -> Record:
        """The one that `peek` gave."""
        record = self._read.popleft()
        self.position = record.offset + 1
        return record

    def take_at(self, offset: int) -> Record | None:
        """The next record, if it was read already and is at this offset; else None, and nothing is taken."""
        return self.take() if self._read and self._read[0].offset == offset else None

    def take_if(self, key: bytes | None, value: bytes | None) -> int | None:
        """The next record's offset, if it was read already and has this content; else None, and nothing is taken."""
        if not self._read:
            return None
        record = self._read[0]
        return self.take().offset if record.value == value and record.key == key else None

    async def passed_over(self, wanted: Callable[[Record], bool]) -> list[Record] | None:
        """Takes the records before the next one that is wanted; None, and nothing is taken, if none is near."""
        while len(self._read) < _LOOK_AHEAD and await self._fetch():
            pass
        for number, record in enumerate(self._read):
            if wanted(record):
                return [self.take() for _ in range(number)]
            if number >= _LOOK_AHEAD:
                break
        return None

    async def batches(self) -> AsyncIterator[list[Record]]:
        """Takes all that is left, as it is fetched."""
        while self._read or await self._fetch():
            batch = list(self._read)
            self._read.clear()
            self.position = batch[-1].offset + 1
            yield batch

    async def values(self) -> AsyncIterator[bytes]:
        """Takes the values of all that is left. Raises UnreadablePartition for a record without one."""
        async for batch in self.batches():
            for record in batch:
                if record.value is None:
                    raise UnreadablePartition(self._where, record.offset, ValueError(record.undecodable or "no value"))
                yield record.value

    async def again(self, offsets: Collection[int]) -> list[Record]:
        """Records that were taken before; the stream stays where it is."""
        found: list[Record] = []
        if offsets:
            before = Stream(self._consumer, self._where, min(offsets), self.position, self._base)
            while await before.peek() is not None:
                if (record := before.take()).offset in offsets:
                    found.append(record)
            self._consumer.seek(self._where, self.position - self._base)
        return found

    async def _fetch(self) -> bool:
        end = self._end - self._base
        while await self._consumer.position(self._where) < end:  # perhaps a transaction is under way
            wanted: Sequence[Record] = await read_some(self._consumer, self._where, timeout_ms=100)
            if wanted and wanted[-1].offset >= end:
                wanted = [record for record in wanted if record.offset < end]
            if wanted:
                if self._base:
                    wanted = [replace(record, offset=record.offset + self._base) for record in wanted]
                self._read.extend(wanted)
                return True
        return False


async def read_some(consumer: AIOKafkaConsumer, where: TopicPartition, timeout_ms: int) -> list[Record]:
    """A partition's next records; none where none has come after a while. Raises KafkaError.

    Of what is damaged on the broker's disk each offset comes as an undecodable record without content, one at a time.
    """
    position = await consumer.position(where)
    try:
        found = (await poll(consumer, where, timeout_ms=timeout_ms, max_records=_AT_ONCE)).get(where, [])
    except UnreadablePartition as damaged:  # where it ends is not known
        consumer.seek(where, damaged.offset + 1)
        return [_unreadable(where, damaged.offset, str(damaged))] if damaged.offset >= position else []
    return found


def _unreadable(where: TopicPartition, offset: int, why: str) -> Record:
    return Record(where.topic, where.partition, offset, 0, None, None, undecodable=why)


@asynccontextmanager
async def open_streams(
    cluster: Cluster,
    topic: str,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    bases: Mapping[int, int] | None = None,
) -> AsyncIterator[dict[int, Stream]]:
    """The streams of some partitions of a topic. Raises KafkaError."""
    bases = bases or {}
    async with open_consumer(cluster) as consumer:
        consumer.assign([TopicPartition(topic, partition) for partition in starts])
        yield {
            number: Stream(consumer, TopicPartition(topic, number), start, ends[number], bases.get(number, 0))
            for number, start in starts.items()
        }


@asynccontextmanager
async def open_consumer(cluster: Cluster) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer for streams. Raises KafkaError."""
    consumer = AIOKafkaConsumer(
        **cluster.options,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # where what was to be read has expired meanwhile
        max_partition_fetch_bytes=_LARGEST_FETCH,
        fetch_max_bytes=4 * _LARGEST_FETCH,
    )
    await consumer.start()
    try:
        await asyncio.sleep(0)  # its tasks begin: `stop` raises CancelledError for one that never has
        yield consumer
    finally:
        await consumer.stop()


async def extents(
    cluster: Cluster, topics: Collection[str], partitions: int, *, only_visible: bool = False
) -> tuple[Ends, Ends]:
    """Where these topics begin, and where what was written to them ends, committed or not. Raises KafkaError.

    `only_visible`: where what readers can see now ends, before the first transaction that is under way.
    """
    isolation = "read_committed" if only_visible else "read_uncommitted"
    consumer = AIOKafkaConsumer(**cluster.options, isolation_level=isolation)
    await consumer.start()
    try:
        everywhere = [TopicPartition(topic, n) for topic in topics for n in range(partitions)]
        begins, ends = await consumer.beginning_offsets(everywhere), await consumer.end_offsets(everywhere)
        return _by_topic(begins), _by_topic(ends)
    finally:
        await consumer.stop()


def _by_topic(offsets: dict[Any, int]) -> Ends:
    found: Ends = {}
    for where, offset in offsets.items():
        found.setdefault(where.topic, {})[where.partition] = offset
    return found


# --- whole topics ---


async def read_all(cluster: Cluster, *topics: str) -> dict[str, list[Record]]:
    """By topic, all records that readers can see now, partition by partition. Raises KafkaError."""
    async with open_consumer(cluster) as consumer:
        counts = await partition_counts(consumer, topics)
        everywhere = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        begins, ends = await consumer.beginning_offsets(everywhere), await consumer.end_offsets(everywhere)
        consumer.assign(everywhere)
        streams = [Stream(consumer, where, begins[where], ends[where]) for where in everywhere]
        found: dict[str, list[Record]] = {topic: [] for topic in topics}
        for stream in streams:
            async for batch in stream.batches():
                found[stream.topic] += batch
        return found


async def all_values(cluster: Cluster, topic: str) -> AsyncIterator[bytes]:
    """The values of a topic of one partition that were committed when this began, in their order. Raises KafkaError."""
    async with open_consumer(cluster) as consumer:
        begin, end = await _only_partition(consumer, topic)
        async for value in Stream(consumer, TopicPartition(topic, 0), begin, end).values():
            yield value


async def last_value(cluster: Cluster, topic: str) -> bytes | None:
    """The last value of a topic of one partition; None where there is none. Raises KafkaError.

    Transactions leave offsets without a record at the end, so this reads back further until it finds one.
    """
    async with open_consumer(cluster) as consumer:
        begin, end = await _only_partition(consumer, topic)
        last, reach = None, _LAST_RECORDS
        while last is None and begin < end:
            start = max(begin, end - reach)
            async for value in Stream(consumer, TopicPartition(topic, 0), start, end).values():
                last = value
            if start == begin:
                break
            reach *= 10
        return last


async def _only_partition(consumer: AIOKafkaConsumer, topic: str) -> tuple[int, int]:
    """Where the topic's one partition, which the consumer then reads, begins and ends."""
    where = TopicPartition(topic, 0)
    begin = (await consumer.beginning_offsets([where]))[where]
    end = (await consumer.end_offsets([where]))[where]
    consumer.assign([where])
    return begin, end


# --- single records ---


async def oldest_unread(
    consumer: AIOKafkaConsumer, topic: str, positions: Mapping[int, int]
) -> dict[int, tuple[int, int]]:
    """By partition with records after these positions: how many offsets, and the oldest's timestamp in milliseconds.

    Raises KafkaError.
    """
    if not positions:
        return {}
    partitions = [TopicPartition(topic, number) for number in positions]
    consumer.assign(partitions)
    ends = await consumer.end_offsets(partitions)
    behind = {tp: end for tp, end in ends.items() if end > positions[tp.partition]}
    if not behind:
        return {}
    consumer.assign(list(behind))
    for tp in behind:
        consumer.seek(tp, positions[tp.partition])
    oldest: dict[TopicPartition, int] = {}
    # A partition whose last records are the marks of transactions ends behind its last record.
    while waiting := [tp for tp in behind if tp not in oldest and await consumer.position(tp) < behind[tp]]:
        try:
            for tp, records in (await poll(consumer, *waiting, timeout_ms=500)).items():
                oldest.setdefault(tp, records[0].timestamp)
        except UnreadablePartition as damaged:  # its age is not known; that it is not read shows all the same
            oldest[damaged.where] = int(time.time() * 1000)
    return {tp.partition: (behind[tp] - positions[tp.partition], timestamp) for tp, timestamp in oldest.items()}


async def next_readable(cluster: Cluster, topic: str, partition: int, start: int) -> int:
    """The first offset at or after `start` that is not damaged on the broker's disk, or the partition's end.

    Raises KafkaError.
    """
    where = TopicPartition(topic, partition)
    async with open_consumer(cluster) as consumer:
        consumer.assign([where])
        end = (await consumer.end_offsets([where]))[where]
        offset = start
        while offset < end and not await _is_readable(consumer, where, offset):
            offset += 1
        return offset


async def _is_readable(consumer: AIOKafkaConsumer, where: TopicPartition, offset: int) -> bool:
    consumer.seek(where, offset)
    try:
        while not await poll(consumer, where, timeout_ms=1000, max_records=1):
            if await consumer.position(where) > offset:  # it is the mark of a transaction
                return True
    except UnreadablePartition:
        return False
    return True
