"""What the demo reads from Kafka as it comes out."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.judging.record import Record
from services.kafka.cluster import Cluster
from services.kafka.record_batches import poll
from services.kafka.topics import Topics

from .script import Json, event_name

T = TypeVar("T")


@dataclass(frozen=True)
class Sighting:
    """An event's envelope, and when it was seen on Kafka (real time)."""

    event: Json
    seen_at: datetime


class Watch:
    """Follows the events, from their beginning, and counts what became of commands. An async context manager."""

    def __init__(self, cluster: Cluster, topics: Topics, partitions: int) -> None:
        self._topics = topics
        self._partitions = partitions
        self._consumer = AIOKafkaConsumer(**cluster.options, isolation_level="read_committed", enable_auto_commit=False)
        self._events: defaultdict[str, list[Sighting]] = defaultdict(list)
        self._answers = 0
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        topics = (self._topics.events, self._topics.outcomes, self._topics.dead_letters)
        partitions = [part for topic in topics for part in _partitions_of(topic, self._partitions)]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_beginning(*partitions)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._consumer.stop()

    async def event(self, order: str, sequence: int) -> Sighting:
        """An order's event by its number, as soon as it is there."""
        return await self._until(lambda: next(iter(self._events[order][sequence - 1 : sequence]), None))

    async def auto_acceptance(self, order: str, dispute_id: str) -> Sighting:
        """The AutoAccepted of a dispute, as soon as it is there."""
        return await self._until(lambda: self._find(order, "AutoAccepted", dispute_id))

    async def deadline(self, order: str, dispute_id: str) -> datetime:
        """Until when a dispute can be answered (business time), as soon as it is open."""
        opened = await self._until(lambda: self._find(order, "DisputeOpened", dispute_id))
        return datetime.fromisoformat(opened.event["data"]["respond_by"])

    async def all_answered(self) -> None:
        """Returns when every record that is on the commands topic now has its outcome or dead letter on Kafka."""
        ends = await self._consumer.end_offsets(_partitions_of(self._topics.commands, self._partitions))
        await self._until(lambda: self._answers >= sum(ends.values()) or None)

    def versions(self) -> dict[str, int]:
        """How many events each order has so far."""
        return {order: len(events) for order, events in self._events.items()}

    def _find(self, order: str, name: str, dispute_id: str) -> Sighting | None:
        for seen in self._events[order]:
            if event_name(seen.event) == name and seen.event["data"]["dispute_id"] == dispute_id:
                return seen
        return None

    async def _until(self, find: Callable[[], T | None]) -> T:
        async with self._news:
            while (found := find()) is None:
                await self._news.wait()
            return found

    async def _read(self) -> None:
        while True:
            batches = await poll(self._consumer, timeout_ms=500)
            seen_at = datetime.now(UTC)
            async with self._news:
                for record in (record for batch in batches.values() for record in batch):
                    self._take(record, seen_at)
                self._news.notify_all()

    def _take(self, record: Record, seen_at: datetime) -> None:
        if record.topic == self._topics.events:
            event = json.loads(record.value or b"")
            self._events[event["subject"]].append(Sighting(event, seen_at))
        else:
            self._answers += 1


def _partitions_of(topic: str, partitions: int) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(partitions)]
