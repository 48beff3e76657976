"""Topics, read partition by partition beside a list of what should be there."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.judging.record import Record

from .cluster import Cluster
from .record_batches import UnreadablePartition, poll

_AT_ONCE = 2000
_LOOK_AHEAD = 200
_LARGEST_FETCH = 8 * 1024 * 1024

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


async def open_streams(
    cluster: Cluster,
    topic: str,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    bases: Mapping[int, int] | None = None,
) -> tuple[AIOKafkaConsumer, dict[int, Stream]]:
    """A consumer, to be stopped, and its partitions' streams. Raises KafkaError."""
    bases = bases or {}
    consumer = await open_consumer(cluster)
    consumer.assign([TopicPartition(topic, partition) for partition in starts])
    return consumer, {
        partition: Stream(consumer, TopicPartition(topic, partition), start, ends[partition], bases.get(partition, 0))
        for partition, start in starts.items()
    }


async def open_consumer(cluster: Cluster) -> AIOKafkaConsumer:
    """A consumer for streams, to be stopped. Raises KafkaError."""
    consumer = AIOKafkaConsumer(
        **cluster.options,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # where what was to be read has expired meanwhile
        max_partition_fetch_bytes=_LARGEST_FETCH,
        fetch_max_bytes=4 * _LARGEST_FETCH,
    )
    await consumer.start()
    await asyncio.sleep(0)  # its tasks begin: `stop` raises CancelledError for one that never has
    return consumer


async def extents(cluster: Cluster, topics: Collection[str], partitions: int) -> tuple[Ends, Ends]:
    """Where these topics begin, and where what was written to them ends, committed or not. Raises KafkaError."""
    consumer = AIOKafkaConsumer(**cluster.options, isolation_level="read_uncommitted")
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
