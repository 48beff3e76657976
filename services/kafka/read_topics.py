"""Reads topics up to an end offset that is known beforehand: whole topics, parts of them, and their last records.

All code that reads a topic without following it uses this module. Readers see committed records only, and wait for
open transactions before the end. A record that cannot be decoded is returned with the reason in `Record.undecodable`,
and so is each offset that is damaged on the broker's disk.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.judging.record import Record

from .cluster import Cluster
from .record_batches import UnreadablePartition, poll
from .topics import partition_counts

_RECORDS_PER_POLL = 2000
_LOOK_AHEAD_RECORDS = 200
_FETCH_BYTES = 8 * 1024 * 1024
_LAST_RECORDS = 200

Ends = dict[str, dict[int, int]]
"""Offsets, by topic and partition."""


class Stream:
    """The committed records of one partition up to a given end. All offsets are the topic's plus `base`."""

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
        """Returns the next record, or None after the last one. Waits for open transactions before the end."""
        if not self._read:
            await self._fetch()
        return self._read[0] if self._read else None

    def take(self) -> Record:
        """Takes the record that `peek` returned."""
        record = self._read.popleft()
        self.position = record.offset + 1
        return record

    def take_at(self, offset: int) -> Record | None:
        """Takes the next record if it was fetched already and has this offset. Otherwise returns None."""
        return self.take() if self._read and self._read[0].offset == offset else None

    def take_if(self, key: bytes | None, value: bytes | None) -> int | None:
        """Takes the next record if it was fetched already and has this content. Returns its offset, otherwise None."""
        if not self._read:
            return None
        record = self._read[0]
        return self.take().offset if record.value == value and record.key == key else None

    async def passed_over(self, wanted: Callable[[Record], bool]) -> list[Record] | None:
        """Takes the records before the next wanted one. Returns None, and takes none, if no wanted one is near."""
        while len(self._read) < _LOOK_AHEAD_RECORDS and await self._fetch():
            pass
        for number, record in enumerate(self._read):
            if wanted(record):
                return [self.take() for _ in range(number)]
            if number >= _LOOK_AHEAD_RECORDS:
                break
        return None

    async def batches(self) -> AsyncIterator[list[Record]]:
        """Takes all remaining records, one list for each fetch."""
        while self._read or await self._fetch():
            batch = list(self._read)
            self._read.clear()
            self.position = batch[-1].offset + 1
            yield batch

    async def values(self) -> AsyncIterator[bytes]:
        """Takes the values of all remaining records. Raises UnreadablePartition for a record without a value."""
        async for batch in self.batches():
            for record in batch:
                if record.value is None:
                    raise UnreadablePartition(self._where, record.offset, ValueError(record.undecodable or "no value"))
                yield record.value

    async def again(self, offsets: Collection[int]) -> list[Record]:
        """Reads again the records at these offsets, which were taken before. The stream keeps its position."""
        records: list[Record] = []
        if offsets:
            earlier = Stream(self._consumer, self._where, min(offsets), self.position, self._base)
            while await earlier.peek() is not None:
                if (record := earlier.take()).offset in offsets:
                    records.append(record)
            self._consumer.seek(self._where, self.position - self._base)
        return records

    async def _fetch(self) -> bool:
        end = self._end - self._base
        while await self._consumer.position(self._where) < end:  # an open transaction may hold records back
            records: Sequence[Record] = await read_some(self._consumer, self._where, timeout_ms=100)
            if records and records[-1].offset >= end:
                records = [record for record in records if record.offset < end]
            if records:
                if self._base:
                    records = [replace(record, offset=record.offset + self._base) for record in records]
                self._read.extend(records)
                return True
        return False


async def read_some(consumer: AIOKafkaConsumer, where: TopicPartition, timeout_ms: int) -> list[Record]:
    """Returns a partition's next records, or an empty list if none came in time. Raises KafkaError.

    Each offset that is damaged on the broker's disk is returned alone, as an undecodable record without content.
    """
    position = await consumer.position(where)
    try:
        polled = await poll(consumer, where, timeout_ms=timeout_ms, max_records=_RECORDS_PER_POLL)
    except UnreadablePartition as damaged:  # nobody knows where the damage ends
        consumer.seek(where, damaged.offset + 1)
        return [_unreadable(where, damaged.offset, str(damaged))] if damaged.offset >= position else []
    return polled.get(where, [])


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
    """Opens streams of some partitions of a topic, by partition. Raises KafkaError."""
    bases = bases or {}
    async with open_consumer(cluster) as consumer:
        consumer.assign([TopicPartition(topic, partition) for partition in starts])
        yield {
            number: Stream(consumer, TopicPartition(topic, number), start, ends[number], bases.get(number, 0))
            for number, start in starts.items()
        }


@asynccontextmanager
async def open_consumer(cluster: Cluster) -> AsyncIterator[AIOKafkaConsumer]:
    """Opens a consumer for streams. Raises KafkaError."""
    consumer = AIOKafkaConsumer(
        **cluster.options,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # if the records to read have expired meanwhile
        max_partition_fetch_bytes=_FETCH_BYTES,
        fetch_max_bytes=4 * _FETCH_BYTES,
    )
    try:  # around `start` too: Ctrl-C may cancel it, and a client that is not stopped logs that
        await consumer.start()
        await asyncio.sleep(0)  # lets its tasks start: `stop` raises CancelledError for a task that never started
        yield consumer
    finally:
        await consumer.stop()


async def extents(
    cluster: Cluster, topics: Collection[str], partitions: int, *, only_visible: bool = False
) -> tuple[Ends, Ends]:
    """Returns the first offset and the end offset of each partition. Raises KafkaError.

    The end is after the last record, committed or not. With `only_visible` it is where readers have to stop now: before
    the first open transaction.
    """
    isolation = "read_committed" if only_visible else "read_uncommitted"
    consumer = AIOKafkaConsumer(**cluster.options, isolation_level=isolation)
    try:
        await consumer.start()
        every = [TopicPartition(topic, n) for topic in topics for n in range(partitions)]
        begins, ends = await consumer.beginning_offsets(every), await consumer.end_offsets(every)
        return by_topic(begins), by_topic(ends)
    finally:
        await consumer.stop()


def by_topic(offsets: dict[TopicPartition, int]) -> Ends:
    """Returns the offsets by topic and partition."""
    found: Ends = {}
    for where, offset in offsets.items():
        found.setdefault(where.topic, {})[where.partition] = offset
    return found


# --- whole topics ---


async def read_all(cluster: Cluster, *topics: str) -> dict[str, list[Record]]:
    """Returns all records that readers can see now, by topic, one partition after another. Raises KafkaError."""
    async with open_consumer(cluster) as consumer:
        counts = await partition_counts(consumer, topics)
        every = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        begins, ends = await consumer.beginning_offsets(every), await consumer.end_offsets(every)
        consumer.assign(every)
        streams = [Stream(consumer, where, begins[where], ends[where]) for where in every]
        records: dict[str, list[Record]] = {topic: [] for topic in topics}
        for stream in streams:
            async for batch in stream.batches():
                records[stream.topic] += batch
        return records


async def all_values(cluster: Cluster, topic: str) -> AsyncIterator[bytes]:
    """Reads the values of a topic with one partition, up to its end at the start. Raises KafkaError."""
    async with open_consumer(cluster) as consumer:
        begin, end = await _only_partition(consumer, topic)
        async for value in Stream(consumer, TopicPartition(topic, 0), begin, end).values():
            yield value


async def last_value(cluster: Cluster, topic: str) -> bytes | None:
    """Returns the last value of a topic with one partition, or None if the topic is empty. Raises KafkaError.

    The last offsets may be transaction markers, which aren't records. So this reads from further and further back until
    it finds a record.
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
    """Assigns the topic's only partition to the consumer. Returns its first offset and its end offset."""
    where = TopicPartition(topic, 0)
    begin = (await consumer.beginning_offsets([where]))[where]
    end = (await consumer.end_offsets([where]))[where]
    consumer.assign([where])
    return begin, end


# --- single records ---


async def oldest_unread(
    consumer: AIOKafkaConsumer, topic: str, positions: Mapping[int, int]
) -> dict[int, tuple[int, int]]:
    """Returns, for each partition with unread records, the number of unread offsets and the oldest record's timestamp.

    Timestamps are in milliseconds. A partition without unread records is left out. Raises KafkaError.
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
    # If a partition ends with transaction markers, its end offset is higher than its last record's offset plus one.
    while waiting := [tp for tp in behind if tp not in oldest and await consumer.position(tp) < behind[tp]]:
        try:
            for tp, records in (await poll(consumer, *waiting, timeout_ms=500)).items():
                oldest.setdefault(tp, records[0].timestamp)
        except UnreadablePartition as damaged:  # its age is unknown, but the metrics still show that it is unread
            oldest[damaged.where] = int(time.time() * 1000)
    return {tp.partition: (behind[tp] - positions[tp.partition], timestamp) for tp, timestamp in oldest.items()}


async def records_at(
    cluster: Cluster, topic: str, partition: int, offsets: Collection[int], base: int = 0
) -> dict[int, Record]:
    """Returns a partition's records at these offsets, which are the topic's plus `base`. Raises KafkaError.

    Leaves out offsets that have expired.
    """
    where = TopicPartition(topic, partition)
    records: dict[int, Record] = {}
    async with open_consumer(cluster) as consumer:
        consumer.assign([where])
        [first] = (await consumer.beginning_offsets([where])).values()
        [end] = (await consumer.end_offsets([where])).values()
        stream: Stream | None = None
        for offset in sorted(offset for offset in offsets if first <= offset - base < end):
            if stream is None or offset - stream.position > _RECORDS_PER_POLL:  # otherwise it is fetched, or soon
                stream = Stream(consumer, where, offset, end + base, base)
            while (record := await stream.peek()) is not None and record.offset < offset:
                stream.take()
            if record is not None and record.offset == offset:
                records[offset] = stream.take()
    return records


async def first_from(cluster: Cluster, topic: str, partition: int, offset: int, base: int = 0) -> Record | None:
    """Returns the first committed record from this offset on, which is the topic's plus `base`, or None.

    Raises KafkaError.
    """
    where = TopicPartition(topic, partition)
    async with open_consumer(cluster) as consumer:
        consumer.assign([where])
        [first] = (await consumer.beginning_offsets([where])).values()
        [end] = (await consumer.end_offsets([where])).values()
        return await Stream(consumer, where, max(first + base, offset), end + base, base).peek()


async def next_readable(cluster: Cluster, topic: str, partition: int, start: int) -> int:
    """Returns the first offset from `start` on that is not damaged on the broker's disk, or else the partition's end.

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
            if await consumer.position(where) > offset:  # the offset is a transaction marker
                return True
    except UnreadablePartition:
        return False
    return True
