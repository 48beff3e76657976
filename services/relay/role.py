"""The relay: publishes what is committed, in the order of the commits, exactly once.

Each Kafka transaction holds a run of outcomes and dead letters, the events that precede them, and the relay's own
position on a topic of its own. The fixed transactional id fences a second relay: the newest one publishes.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import LiteralString, TypeVar

import msgspec
import psycopg
from aiokafka import AIOKafkaProducer
from aiokafka.producer import sender as aiokafka_sender
from eventsourcing.persistence import StoredEvent
from msgspec import structs
from psycopg.rows import class_row, tuple_row

from services.faults import point
from services.kafka.relay_position import Position, published
from services.kafka.topics import Topics, partition_of
from services.master_keys import MasterKeys
from services.orders.events import Event
from services.store.changes import Changes
from services.store.mapper import decode_event
from services.store.order_keys import SELECT_KEYS, OrderKeys, sealed_orders
from services.telemetry import measures, traces
from services.telemetry.health import progress

from .batches import Batches, Headers
from .messages import CONTENT_TYPE, event_message

log = logging.getLogger(__name__)

_Row = TypeVar("_Row")

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
    traceparent: str | None

    def record(self, topics: Topics) -> tuple[str, int, bytes | None, bytes | None, Headers]:
        """What to send of it, and where to: topic, partition, key, value, headers."""
        if self.headers is None:
            return topics.outcomes, self.partition, self.order_id.encode(), self.message, self.event_headers
        headers = msgspec.json.decode(self.headers, type=list[tuple[str, bytes | None]])
        return topics.dead_letters, self.partition, self.key, self.message, headers

    @property
    def event_headers(self) -> Headers:
        """Of its events, and of the outcome itself."""
        if self.traceparent is None:
            return CONTENT_TYPE
        return [*CONTENT_TYPE, (traces.TRACEPARENT, self.traceparent.encode())]


@dataclass
class _Notification:
    notification_id: int
    order_id: str
    message: bytes


class RelayRole:
    """Publishes events, outcomes and dead letters."""

    def __init__(self, bootstrap_servers: str, topics: Topics, database_url: str, masters: MasterKeys) -> None:
        self._servers = bootstrap_servers
        self._topics = topics
        self._url = database_url
        self._masters = masters
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
            position = await published(self._servers, self._topics)
            log.info("publishing goes on behind outcome %d", position.outcome_id)
            async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
                changes = await Changes.listen(self._url)
                try:
                    await self._check(connection, position)
                    ready.set()
                    while True:
                        progress("relay")
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
        outcomes = await _select(
            connection,
            _Outcome,
            "SELECT outcome_id, partition, last_event_id, order_id, message, key, headers, "
            "traceparent FROM outcomes "
            "WHERE outcome_id > %s ORDER BY outcome_id LIMIT %s",
            (position.outcome_id, _RUN),
        )
        notifications = await _select(
            connection,
            _Notification,
            "SELECT notification_id, order_id, message FROM notifications WHERE notification_id > %s "
            "ORDER BY notification_id LIMIT %s",
            (position.notification_id, _RUN),
        )
        if not outcomes and not notifications:
            return position, False
        after = position
        if outcomes:
            after = structs.replace(after, outcome_id=outcomes[-1].outcome_id, event_id=outcomes[-1].last_event_id)
        if notifications:
            after = structs.replace(after, notification_id=notifications[-1].notification_id)
        point("relay.read")
        with measures.stage("relay_read"):
            events = await self._events(connection, position.event_id, after.event_id)
        with measures.stage("relay_publish"):
            await self._publish(events, outcomes, notifications, position.event_id, after)
        return after, _RUN in (len(outcomes), len(notifications))

    async def _publish(
        self,
        events: Sequence[Event],
        outcomes: Sequence[_Outcome],
        notifications: Sequence[_Notification],
        event_id: int,
        after: Position,
    ) -> None:
        """One Kafka transaction: what is behind event `event_id`, and the position `after` it."""
        spans = _traced(outcomes)
        async with self._producer.transaction():
            point("relay.begun")
            batches = Batches(self._producer)
            await self._add(batches, events, outcomes, event_id)
            for notification in notifications:
                key = notification.order_id.encode()
                partition = partition_of(key, len(await self._producer.partitions_for(self._topics.notifications)))
                await batches.add(self._topics.notifications, partition, key, notification.message, CONTENT_TYPE)
            await batches.add(self._topics.relay, 0, b"position", msgspec.json.encode(after), [])
            point("relay.added")
            await batches.delivered()
            point("relay.delivered")
        point("relay.committed")
        spans.end()
        measures.published(
            event=len(events),
            outcome=sum(outcome.headers is None for outcome in outcomes),
            dead_letter=sum(outcome.headers is not None for outcome in outcomes),
            notification=len(notifications),
        )

    async def _add(
        self, batches: Batches, events: Sequence[Event], outcomes: Sequence[_Outcome], event_id: int
    ) -> None:
        """Each outcome's events, then the outcome, to the partition that its command came from."""
        following = iter(events)
        for outcome in outcomes:
            for event in islice(following, outcome.last_event_id - event_id):
                key = event.originator_id.encode()
                await batches.add(
                    self._topics.events, outcome.partition, key, event_message(event), outcome.event_headers
                )
            event_id = outcome.last_event_id
            await batches.add(*outcome.record(self._topics))

    async def _events(self, connection: psycopg.AsyncConnection, after: int, last: int) -> list[Event]:
        """Those behind a notification id, up to another. The keys are read behind them: see `order_keys`."""
        if after == last:
            return []
        stored = await _select(
            connection,
            StoredEvent,
            "SELECT originator_id, originator_version, topic, state FROM order_events "
            "WHERE notification_id > %s AND notification_id <= %s ORDER BY notification_id",
            (after, last),
        )
        keys = OrderKeys()
        if order_ids := sealed_orders(stored):
            async with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
                await cursor.execute(SELECT_KEYS, (list(order_ids),), prepare=True)
                keys = OrderKeys.of_rows(await cursor.fetchall(), self._masters)
        return [decode_event(event, keys) for event in stored]

    async def _check(self, connection: psycopg.AsyncConnection, position: Position) -> None:
        row = await (await connection.execute("SELECT coalesce(max(outcome_id), 0) FROM outcomes")).fetchone()
        assert row is not None
        if row[0] < position.outcome_id:
            raise RuntimeError(
                f"outcome {position.outcome_id} is published, but the store ends at {row[0]}: it is not the database "
                "that these topics belong to, or an earlier state of it. Restore it, or use another "
                "RESOLUTION_TOPIC_PREFIX."
            )


def _traced(outcomes: Sequence[_Outcome]) -> traces.Spans:
    """A span for each outcome whose command is traced; what is published names it."""
    spans = traces.Spans()
    for outcome in outcomes:
        if outcome.traceparent is not None:
            about = {"order_id": outcome.order_id, "outcome_id": outcome.outcome_id}
            outcome.traceparent = spans.begin("publish", outcome.traceparent, "producer", **about)
    return spans


async def _select(
    connection: psycopg.AsyncConnection, row_type: type[_Row], sql: LiteralString, parameters: tuple[int, int]
) -> list[_Row]:
    async with connection.cursor(row_factory=class_row(row_type), binary=True) as cursor:
        await cursor.execute(sql, parameters, prepare=True)
        return await cursor.fetchall()
