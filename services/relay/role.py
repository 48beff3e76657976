"""The relay: publishes what is committed, in the order of the commits, exactly once.

Each Kafka transaction holds a run of outcomes and dead letters, the events that precede them, and the relay's own
position on a topic of its own. The fixed transactional id fences a second relay: the newest one publishes.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer import sender as aiokafka_sender
from eventsourcing.persistence import StoredEvent
from psycopg.rows import class_row

from services.faults import point
from services.kafka.topics import Topics
from services.store.changes import Changes

from .batches import Batches, Headers
from .messages import CONTENT_TYPE, event_message

log = logging.getLogger(__name__)

# While the broker still writes the markers of the last transaction, it refuses the next one's first partition, and
# aiokafka tries again after 20 ms. Transactions follow one another here, and markers take a millisecond or two.
aiokafka_sender.BACKOFF_OVERRIDE = 0.001

_RUN = 2000
"""Outcomes per Kafka transaction, at most."""


@dataclass
class _Outcome:
    outcome_id: int
    partition: int
    last_event_id: int
    order_id: str
    message: bytes | None
    key: bytes | None
    headers: bytes | None

    def record(self, topics: Topics) -> tuple[str, int, bytes | None, bytes | None, Headers]:
        """What to send of it, and where to: topic, partition, key, value, headers."""
        if self.headers is None:
            return topics.outcomes, self.partition, self.order_id.encode(), self.message, CONTENT_TYPE
        headers = msgspec.json.decode(self.headers, type=list[tuple[str, bytes | None]])
        return topics.dead_letters, self.partition, self.key, self.message, headers


class Position(msgspec.Struct, frozen=True):
    """The last outcome published, and the last event before it."""

    outcome_id: int = 0
    event_id: int = 0


class RelayRole:
    """Publishes events, outcomes and dead letters."""

    def __init__(self, bootstrap_servers: str, topics: Topics, database_url: str) -> None:
        self._servers = bootstrap_servers
        self._topics = topics
        self._url = database_url
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap_servers,
            transactional_id=topics.relay,
            transaction_timeout_ms=60_000,
            max_request_size=4 * 1024 * 1024,
            max_batch_size=512 * 1024,
            linger_ms=0,
            retry_backoff_ms=20,
        )

    async def run(self, ready: asyncio.Event) -> None:
        """Publishes for ever. Raises what went wrong; a new start goes on where the last transaction ended."""
        await self._producer.start()  # fences any relay before this one, and ends what it left open
        try:
            position = await self._published()
            async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
                changes = await Changes.listen(self._url)
                try:
                    await self._check(connection, position)
                    ready.set()
                    while True:
                        seen = changes.seen()
                        position, more = await self._publish_next(connection, position)
                        if not more:
                            await changes.after(seen)
                finally:
                    await changes.close()
        finally:
            await self._producer.stop()

    async def _publish_next(self, connection: psycopg.AsyncConnection, position: Position) -> tuple[Position, bool]:
        """Publishes one run; returns the position behind it, and whether more may be there already."""
        async with connection.cursor(row_factory=class_row(_Outcome), binary=True) as cursor:
            await cursor.execute(
                "SELECT outcome_id, partition, last_event_id, order_id, message, key, headers FROM outcomes "
                "WHERE outcome_id > %s ORDER BY outcome_id LIMIT %s",
                (position.outcome_id, _RUN),
                prepare=True,
            )
            outcomes = await cursor.fetchall()
        if not outcomes:
            return position, False
        after = Position(outcomes[-1].outcome_id, outcomes[-1].last_event_id)
        point("relay.read")
        events = await self._events(connection, position.event_id, after.event_id)
        async with self._producer.transaction():
            point("relay.begun")
            batches = Batches(self._producer)
            await self._add(batches, events, outcomes, position.event_id)
            await batches.add(self._topics.relay, 0, b"position", msgspec.json.encode(after), [])
            point("relay.added")
            await batches.delivered()
            point("relay.delivered")
        point("relay.committed")
        return after, len(outcomes) == _RUN

    async def _events(self, connection: psycopg.AsyncConnection, after: int, last: int) -> Sequence[StoredEvent]:
        if after == last:
            return []
        async with connection.cursor(row_factory=class_row(StoredEvent), binary=True) as cursor:
            await cursor.execute(
                "SELECT originator_id, originator_version, topic, state FROM order_events "
                "WHERE notification_id > %s AND notification_id <= %s ORDER BY notification_id",
                (after, last),
                prepare=True,
            )
            return await cursor.fetchall()

    async def _add(
        self, batches: Batches, events: Sequence[StoredEvent], outcomes: Sequence[_Outcome], event_id: int
    ) -> None:
        """Each outcome's events, then the outcome, to the partition that its command came from."""
        following = iter(events)
        for outcome in outcomes:
            for event in islice(following, outcome.last_event_id - event_id):
                key = str(event.originator_id).encode()
                await batches.add(self._topics.events, outcome.partition, key, event_message(event), CONTENT_TYPE)
            event_id = outcome.last_event_id
            await batches.add(*outcome.record(self._topics))

    async def _published(self) -> Position:
        """The position of the last committed transaction, from the relay's own topic."""
        partition = TopicPartition(self._topics.relay, 0)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers, isolation_level="read_committed", enable_auto_commit=False
        )
        await consumer.start()
        try:
            consumer.assign([partition])
            beginning = (await consumer.beginning_offsets([partition]))[partition]
            end = (await consumer.end_offsets([partition]))[partition]
            position, reach = Position(), 200
            while position == Position() and end > beginning:
                start = max(beginning, end - reach)
                position = await _last_position(consumer, partition, start, end)
                if start == beginning:
                    break
                reach *= 10
            log.info("publishing goes on behind outcome %d", position.outcome_id)
            return position
        finally:
            await consumer.stop()

    async def _check(self, connection: psycopg.AsyncConnection, position: Position) -> None:
        row = await (await connection.execute("SELECT coalesce(max(outcome_id), 0) FROM outcomes")).fetchone()
        assert row is not None
        if row[0] < position.outcome_id:
            raise RuntimeError(
                f"outcome {position.outcome_id} is published, but the store ends at {row[0]}: it is not the database "
                "that these topics belong to, or an earlier state of it. Restore it, or use another "
                "RESOLUTION_TOPIC_PREFIX."
            )


async def _last_position(consumer: AIOKafkaConsumer, partition: TopicPartition, start: int, end: int) -> Position:
    consumer.seek(partition, start)
    last = Position()
    while await consumer.position(partition) < end:
        for record in (await consumer.getmany(partition, timeout_ms=200)).get(partition, []):
            assert record.value is not None
            last = msgspec.json.decode(record.value, type=Position)
    return last
