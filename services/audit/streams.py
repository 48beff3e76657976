"""Topics, read partition by partition beside a list of what should be there."""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.kafka.consumer import Record

_AT_ONCE = 2000
_LOOK_AHEAD = 200
_LARGEST_FETCH = 8 * 1024 * 1024

Ends = dict[str, dict[int, int]]
"""By topic and partition, an offset."""


class Stream:
    """One partition's committed records up to an end that was measured before. `begun` is the reader's own mark."""

    def __init__(self, consumer: AIOKafkaConsumer, where: TopicPartition, start: int, end: int) -> None:
        self._consumer = consumer
        self._where = where
        self._end = end
        self._read: deque[Record] = deque()
        self.topic, self.partition = where.topic, where.partition
        self.position = start
        self.begun = False
        consumer.seek(where, start)

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
            before = Stream(self._consumer, self._where, min(offsets), self.position)
            while await before.peek() is not None:
                if (record := before.take()).offset in offsets:
                    found.append(record)
            self._consumer.seek(self._where, self.position)
        return found

    async def _fetch(self) -> bool:
        while await self._consumer.position(self._where) < self._end:  # perhaps a transaction is under way
            found = await self._consumer.getmany(self._where, timeout_ms=1000, max_records=_AT_ONCE)
            records: Iterable[Record] = found.get(self._where, [])
            if wanted := [record for record in records if record.offset < self._end]:
                self._read.extend(wanted)
                return True
        return False


async def open_streams(
    bootstrap_servers: str, topic: str, starts: dict[int, int], ends: dict[int, int]
) -> tuple[AIOKafkaConsumer, dict[int, Stream]]:
    """A consumer, to be stopped, and its partitions' streams. Raises KafkaError."""
    consumer = await open_consumer(bootstrap_servers)
    consumer.assign([TopicPartition(topic, partition) for partition in starts])
    return consumer, {
        partition: Stream(consumer, TopicPartition(topic, partition), start, ends[partition])
        for partition, start in starts.items()
    }


async def open_consumer(bootstrap_servers: str) -> AIOKafkaConsumer:
    """A consumer for streams, to be stopped. Raises KafkaError."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # where what was to be read has expired meanwhile
        max_partition_fetch_bytes=_LARGEST_FETCH,
        fetch_max_bytes=4 * _LARGEST_FETCH,
    )
    await consumer.start()
    return consumer


async def extents(bootstrap_servers: str, topics: Collection[str], partitions: int) -> tuple[Ends, Ends]:
    """Where these topics begin, and where what was written to them ends, committed or not. Raises KafkaError."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, isolation_level="read_uncommitted")
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
