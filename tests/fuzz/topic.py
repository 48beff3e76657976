"""A topic as it is stored: all its records, numbered by their places, as Kafka's own client would read them.

The batches that the test wrote are known; only those of others are decoded, and these are not compressed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from aiokafka.record.memory_records import MemoryRecords

from tests.fuzz.generate import Garbage
from tests.fuzz.sender import RawSender
from tests.fuzz.wire import CONTROL, BatchHeader, NotReadable, Seen, read_payload
from tests.support.installation import PARTITIONS

Place = tuple[int, int]
"""Partition and offset."""

_LARGEST_DECODED = 8 * 1024 * 1024


@dataclass(frozen=True)
class Found:
    """A record of the topic. `said` is None where no client could read its batch."""

    partition: int
    offset: int
    time: int
    said: Seen | None = field(repr=False)
    garbage: Garbage | None
    """What it was written as; None for other senders' records."""
    plain: bool
    """Whether aiokafka reads it, and as Kafka's own client does. What is not may be judged or be a dead letter."""

    @property
    def place(self) -> Place:
        return self.partition, self.offset


class _Known:
    """A batch of the test's own, decoded once however often the broker has it."""

    def __init__(self, garbage: Garbage) -> None:
        self.garbage = garbage

    @cached_property
    def seen(self) -> list[Seen] | None:
        batch = self.garbage.batch
        try:
            return read_payload(batch.payload, len(batch.records))
        except NotReadable:
            return None

    @cached_property
    def plain(self) -> bool:
        seen = self.seen
        if seen is None or len(self.garbage.batch.payload) > _LARGEST_DECODED:
            return False
        if [record.offset_delta for record in seen] != list(range(len(seen))):
            return False
        try:
            batch = MemoryRecords(self.garbage.bytes).next_batch()
            read = [(r.offset, r.key, r.value, [(name.encode(), v) for name, v in r.headers]) for r in batch]
        except Exception:
            return False
        return read == [(r.offset_delta, r.key, r.value, list(r.headers)) for r in seen]


async def read_topic(sender: RawSender, topic: str, written: Mapping[Place, Garbage]) -> list[Found]:
    """All records but those of aborted transactions, by partition and offset. `written`: by each batch's first place."""
    return [
        record for partition in range(PARTITIONS) for record in await _read_partition(sender, topic, partition, written)
    ]


async def _read_partition(
    sender: RawSender, topic: str, partition: int, written: Mapping[Place, Garbage]
) -> list[Found]:
    found: list[Found] = []
    offset, end = 0, 1
    while offset < end:
        end, stored = await sender.fetch(topic, partition, offset)
        for header, payload in _batches(stored):
            offset = header.base_offset + header.last_offset_delta + 1
            if not header.attributes & CONTROL:
                found += _records(partition, header, payload, written.get((partition, header.base_offset)))
    return found


def _batches(stored: bytes) -> Iterator[tuple[BatchHeader, bytes]]:
    position = 0
    while (header := BatchHeader.of(stored, position)) is not None:
        yield header, stored[position + header.SIZE : position + header.length]
        position += header.length


def _records(partition: int, header: BatchHeader, payload: bytes, garbage: Garbage | None) -> Iterator[Found]:
    if garbage is not None and garbage.committed is False:
        return
    known = None if garbage is None else _Known(garbage)
    seen = read_payload(payload, header.count) if known is None else known.seen
    plain = known is None or known.plain
    for place in range(header.count):
        said = None if seen is None else seen[place]
        yield Found(partition, header.base_offset + place, header.largest_timestamp, said, garbage, plain)
