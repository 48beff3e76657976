"""The relay: publishes what is committed, in the order of the commits, exactly once.

Each Kafka transaction has a run of outcomes and dead letters, their events, and the relay's position, which is on a
topic of its own. The fixed transactional id fences any older relay.

Before each Kafka transaction, the relay notes in the store how far it is about to publish, in the database transaction
that reads what it publishes. If its last note is missing, the store was restored to an earlier state, and the relay
ends. A relay that starts and finds more on Kafka than the store has noted first reconciles both (`reconcile.py`).
It does the same if it finds a transaction that Kafka ended in part.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from time import monotonic
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from msgspec import structs

from services.eventstore.commit_listener import CommitListener
from services.eventstore.database import ANSWER_WITHIN_SECONDS, connect_async, fetch_row_async
from services.fault_points import point
from services.kafka.cluster import Cluster
from services.kafka.read_topics import by_topic
from services.kafka.relay_position import Position, published
from services.kafka.topics import Topics
from services.kafka.transactions import TransactionalProducer, TransactionInDoubt
from services.relay.store_notes import Notes, begin_timeline, note_intent, note_published, read_notes
from services.retention.months import Retired
from services.sealing.master_keys import MasterKeys
from services.telemetry import role_metrics, traces
from services.telemetry.health import progress, trouble

from .batches import Batches
from .reconcile import Contradiction, Reconciliation
from .unpublished import (
    Decided,
    Notification,
    Record,
    is_full,
    next_notifications,
    records,
    retired_events,
    retired_record,
    retired_up_to,
    unpublished_outcomes,
    with_events,
)

log = logging.getLogger(__name__)

_NOTE_EVERY_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


async def publish_for_ever(
    cluster: Cluster, topics: Topics, database_url: str, masters: MasterKeys, ready: asyncio.Event
) -> None:
    """Runs a relay, and a new one whenever a server fails. A new process would take seconds to start.

    Sets `ready` once the first relay publishes. Raises ProducerFenced if another process has taken over, and any error
    that a new relay would meet again.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        began = monotonic()
        try:
            await RelayRole(cluster, topics, database_url, masters).run(ready)
        except (KafkaError, psycopg.OperationalError) as error:
            if isinstance(error, ProducerFenced) and not isinstance(error, TransactionInDoubt):
                raise
            trouble("relay", str(error), waits=True)
            log.warning("the relay starts again, and fences requests that may arrive late: %s", error)
        pause = _FIRST_PAUSE_SECONDS if monotonic() - began > _LONGEST_PAUSE_SECONDS else pause * 2
        await asyncio.sleep(min(pause, _LONGEST_PAUSE_SECONDS))


class RelayRole:
    """Publishes events, outcomes and dead letters, until a server fails."""

    def __init__(self, cluster: Cluster, topics: Topics, database_url: str, masters: MasterKeys) -> None:
        self._cluster = cluster
        self._topics = topics
        self._url = database_url
        self._masters = masters
        self._retired = Retired()
        self._noted = Position()
        self._note_at = 0.0
        self._producer = TransactionalProducer(
            cluster,
            topics.relay,
            max_request_size=4 * 1024 * 1024,
            max_batch_size=512 * 1024,
            linger_ms=0,
            retry_backoff_ms=20,
        )
        self._own = TopicPartition(topics.relay, 0)
        written = (topics.events, topics.outcomes, topics.dead_letters, topics.notifications)
        self._partitions = [
            TopicPartition(topic, number)
            for topic in written
            for number in range(topics.partitions)
            if topics.shard.has(number)
        ]

    async def run(self, ready: asyncio.Event) -> None:
        """Publishes for ever. After an exception, a new relay goes on where the last transaction ended."""
        # The producer's start fences any older relay, and ends the transaction that it left open.
        async with self._producer, self._opened() as (connection, changes):
            await self._end_what_is_left_open(connection)
            self._retired = await retired_up_to(connection)
            position = await published(self._cluster, self._topics)
            position = await self._checked(connection, changes, position)
            log.info("publishing what follows outcome %d", position.outcome_id)
            ready.set()
            while True:
                progress("relay")
                seen = changes.seen()
                position, more = await self._publish_next(connection, position)
                await self._note(connection, position)
                if not more:
                    await changes.after(seen)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[psycopg.AsyncConnection[Any], CommitListener]]:
        self._ends = AIOKafkaConsumer(**self._cluster.options, isolation_level="read_uncommitted")
        try:
            await self._ends.start()
            session = connect_async(self._url, answer_within=ANSWER_WITHIN_SECONDS, autocommit=True)
            async with await session as connection:
                changes = await CommitListener.listen(self._url)
                try:
                    yield connection, changes
                finally:
                    await changes.close()
        finally:
            await self._ends.stop()

    async def _end_what_is_left_open(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Ends a transaction that Kafka ended in part, and sees to it that the topics are compared with the store.

        Raises KafkaError if nobody can see the relay's position, and RuntimeError as `_check_shards` does.
        """
        left = await self._producer.left_open([self._own, *self._partitions])
        if self._own in self._producer.foreign:
            raise KafkaError(
                f"the position on {self._topics.relay} cannot be seen until the transaction of another producer ends: "
                "abort it with kafka-transactions.sh"
            )
        if not left:
            return
        log.warning(
            "Kafka ended a transaction in part: it is still open in %s. What is missing there is published again",
            ", ".join(f"{where.topic}/{where.partition}" for where in sorted(left)),
        )
        self._check_shards(await published(self._cluster, self._topics))
        notes = await read_notes(connection)
        # An earlier version noted as published what was still open. The comparison begins after that.
        noted = {where for where in left if notes.ends.get(where.topic, {}).get(where.partition, 0) > left[where]}
        if noted:
            await self._producer.end(noted, commit=True)
        # A timeline that no store has makes this relay and any later one compare, whatever the store forgets. Its
        # transaction commits the relay's topic, where only the last position counts.
        await self._send([], self._compared_from(notes))
        if hidden := left.keys() - noted - {self._own}:
            await self._producer.end(hidden, commit=False)

    def _compared_from(self, notes: Notes) -> Position:
        """Returns the last position that is known to be published, under a new timeline."""
        return structs.replace(notes.published, timeline=uuid4().hex, shards=self._topics.shard.count)

    def _check_shards(self, position: Position) -> None:
        """Raises RuntimeError if the position is of an installation with another number of databases."""
        if position.shards != self._topics.shard.count:
            raise RuntimeError(
                f"these topics belong to an installation with {position.shards} databases, and this is "
                f"{self._topics.shard}. Name them all in RESOLUTION_DATABASE_URL, or use another "
                "RESOLUTION_TOPIC_PREFIX."
            )

    async def _checked(
        self, connection: psycopg.AsyncConnection[Any], changes: CommitListener, position: Position
    ) -> Position:
        """Checks that the store and the topics belong together. Returns the position from which to publish.

        Reconciles them first if the store was restored. Raises RuntimeError if they do not belong together.
        """
        self._check_shards(position)
        async with connection.transaction():
            notes = await _notes(connection, position)
            if notes.exceed(position):
                raise RuntimeError(
                    f"outcome {notes.published.outcome_id} was published, but {self._topics.relay} ends at outcome "
                    f"{position.outcome_id}: Kafka has lost what it had, or these are other topics. Nothing is "
                    "published. docs/backup.md says how to go on (resolution renew-topics)."
                )
            if not notes.lack(position):
                await note_intent(connection, Position(timeline=position.timeline), position)
                return position
            if notes.published.outcome_id < self._retired.outcome_id:
                raise Contradiction(
                    "the database was restored, or Kafka ended a transaction in part, before the events of retired "
                    "outcomes were all published on renewed topics; no comparison can tell which of them are there. "
                    "Renew the topics once more (resolution renew-topics)"
                )
            # From here on, this store gives the same numbers to other outcomes than those that were published.
            start = self._compared_from(notes)
            await begin_timeline(connection, start)
        reconciliation = Reconciliation(self._cluster, self._topics, connection, self._masters, changes)
        return await reconciliation.bring_together(start, notes.ends, position, self._send)

    async def _publish_next(
        self, connection: psycopg.AsyncConnection[Any], position: Position
    ) -> tuple[Position, bool]:
        """Publishes one run. Returns the position after it, and whether more may be stored already."""
        if position.outcome_id < self._retired.outcome_id:
            return await self._publish_retired(connection, position), True
        async with _reading(connection):
            outcomes = await unpublished_outcomes(connection, position)
            notifications = await next_notifications(connection, position)
            after = position
            if outcomes:
                after = structs.replace(after, outcome_id=outcomes[-1].outcome_id, event_id=outcomes[-1].last_event_id)
            if notifications:
                after = structs.replace(after, notification_id=notifications[-1].notification_id)
            if after == position:
                await note_intent(connection, position, position)
                return position, False
            point("relay.read")
            with role_metrics.stage("relay_read"):
                decided = await with_events(connection, self._masters, outcomes, position.event_id)
                await note_intent(connection, position, after)
        with role_metrics.stage("relay_publish"):
            await self._publish(decided, notifications, after)
        return after, is_full(outcomes, notifications)

    async def _publish(
        self, decided: Sequence[Decided], notifications: Sequence[Notification], after: Position
    ) -> None:
        """Publishes a run in one Kafka transaction, which also has the new position `after`."""
        spans = _traced(decided)
        of_outcomes = (record for one in decided for record in records(one, self._topics))
        of_reminders = (notification.record(self._topics) for notification in notifications)
        await self._send(chain(of_outcomes, of_reminders), after)
        spans.end()

    async def _publish_retired(self, connection: psycopg.AsyncConnection[Any], position: Position) -> Position:
        """Publishes a run of events whose outcomes were retired. After `renew-topics`, topics get all of history."""
        async with _reading(connection):
            events, after = await retired_events(connection, self._masters, position, self._retired)
            await note_intent(connection, position, after)
        await self._send((retired_record(event, self._topics) for event in events), after)
        return after

    async def _send(self, records: Iterable[Record], after: Position | None) -> None:
        """Publishes records in one Kafka transaction, which also has the new position `after`, unless that is None."""
        counts: Counter[str] = Counter()
        async with self._producer.transaction():
            point("relay.begun")
            batches = Batches(self._producer)
            for record in records:
                await batches.add(*record)
                counts[record[0]] += 1
            if after is not None:
                await batches.add(self._topics.relay, 0, b"position", msgspec.json.encode(after), [])
            point("relay.added")
            await batches.delivered()
            point("relay.delivered")
        point("relay.committed")
        role_metrics.published(
            event=counts[self._topics.events],
            outcome=counts[self._topics.outcomes],
            dead_letter=counts[self._topics.dead_letters],
            notification=counts[self._topics.notifications],
        )

    async def _note(self, connection: psycopg.AsyncConnection[Any], position: Position) -> None:
        """Notes in the store where the topics end, at most once a second. Nobody else writes to these topics."""
        if position == self._noted or monotonic() < self._note_at:
            return
        await note_published(connection, position, by_topic(await self._ends.end_offsets(self._partitions)))
        self._noted, self._note_at = position, monotonic() + _NOTE_EVERY_SECONDS


@asynccontextmanager
async def _reading(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """Opens one transaction for what is read and the note about it, so that both are on the same server."""
    async with connection.transaction():
        # If a crash of the server loses the note, the next relay only makes a comparison that was not needed.
        await connection.execute("SET LOCAL synchronous_commit = off")
        yield


async def _notes(connection: psycopg.AsyncConnection[Any], position: Position) -> Notes:
    """Returns the store's notes. If an earlier version published without a note, takes the store's last outcome."""
    notes = await read_notes(connection)
    if notes.intended is not None:
        return notes
    [last] = await fetch_row_async(
        connection,
        "SELECT greatest(0, (SELECT max(outcome_id) FROM outcomes), (SELECT max(outcome_id) FROM splits))",
    )
    return structs.replace(notes, intended=(last, position.notification_id))


def _traced(decided: Sequence[Decided]) -> traces.Spans:
    """Begins a span for each outcome whose command is traced, and puts the span's context into the outcome."""
    spans = traces.Spans()
    for outcome, _ in decided:
        if outcome.traceparent is not None:
            about = {"order_id": outcome.order_id, "outcome_id": outcome.outcome_id}
            outcome.traceparent = spans.begin("publish", outcome.traceparent, "producer", **about)
    return spans
