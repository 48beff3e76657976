"""Reconciles the topics with a store that was restored to an earlier state, or with a transaction that ended in part.

After a restore, the commands role starts again from the restored positions, and judges the same commands with the same
results. Only outcome and event numbers may differ, because partitions may mix in another order. So the relay compares,
order by order, what the store has with what is on the topics, from where the topics ended at the store's last note. It
publishes nothing until the store has again all that is on the topics. If something differs, or cannot be judged again,
the relay stops with a Contradiction.

If Kafka ended a transaction in part (`services/kafka/transactions.py`), the relay aborts it where it is still open. The
same comparison then shows which of its records readers have, and the relay publishes the others.
"""

import hashlib
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import psycopg
from msgspec import structs

from services.eventstore.commit_listener import CommitListener
from services.eventstore.database import fetch_row_async, lock_appends_async
from services.eventstore.outcomes import StoredOutcome
from services.kafka.cluster import Cluster
from services.kafka.read_topics import Ends, Stream, extents, open_streams
from services.kafka.relay_position import Position
from services.kafka.topics import Topics, count_partitions
from services.orders.reminders import NUMBERS
from services.orders.texts import published_without_texts
from services.relay.store_notes import note_intent
from services.sealing.master_keys import MasterKeys
from services.telemetry.health import progress

from .unpublished import RUN, Decided, Record, one_with_events, records, unpublished_outcomes, with_events

log = logging.getLogger(__name__)

Publish = Callable[[Iterable[Record], Position | None], Awaitable[None]]


class Contradiction(Exception):
    """The topics have something that the store does not produce. The text says where (no values), and what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}. Nothing is published. docs/backup.md says what may have happened to the restored database, and "
            "what to do."
        )


class Ahead:
    """What is on the topics after the store's last note. The store must produce each key's records in their order."""

    def __init__(self, topics: Topics, streams: dict[str, dict[int, Stream]]) -> None:
        self._topics = topics
        self._streams = streams
        self._waiting: defaultdict[tuple[str, int, bytes | None], deque[tuple[int, bytes]]] = defaultdict(deque)

    @classmethod
    @asynccontextmanager
    async def after(cls, cluster: Cluster, topics: Topics, starts: Ends) -> AsyncIterator["Ahead"]:
        """Opens the topics at `starts`, or at their beginning if it is empty. Raises Contradiction and KafkaError."""
        names = (topics.events, topics.outcomes, topics.dead_letters, topics.notifications)
        begins, ends = await extents(cluster, names, await count_partitions(cluster, topics))
        begins, ends, starts = (_of_shard(topics, offsets) for offsets in (begins, ends, starts))
        starts = {topic: starts.get(topic) or dict.fromkeys(begins[topic], 0) for topic in names}
        _check_begins(begins, starts)
        streams = {}
        async with AsyncExitStack() as stack:
            for topic in names:
                opened = open_streams(cluster, topic, starts[topic], ends[topic])
                streams[topic] = await stack.enter_async_context(opened)
            yield cls(topics, streams)

    async def missing(self, decided: Decided) -> list[int]:
        """Returns which of an outcome's records are not on the topics, by their place. Raises Contradiction."""
        outcome, _ = decided
        missing = []
        for place, (topic, partition, key, value, _) in enumerate(records(decided, self._topics)):
            # An earlier version published large dead letters in full.
            uncut = outcome.message if topic == self._topics.dead_letters else None
            if not await self._is_next(topic, partition, key, value, uncut):
                missing.append(place)
        return missing

    async def notifications(self) -> list[bytes]:
        """Returns the reminders on the topic, by partition and offset."""
        messages: list[bytes] = []
        for stream in self._streams.pop(self._topics.notifications).values():
            while await stream.peek() is not None:
                value = stream.take().value
                assert value is not None
                messages.append(value)
        return messages

    async def left(self) -> str:
        """Returns the topic, partition and offset of a record that the store has not produced yet, or ""."""
        for (topic, partition, _), queue in self._waiting.items():
            if queue:
                return f"{topic}/{partition} offset {queue[0][0]}"
        for streams in self._streams.values():
            for stream in streams.values():
                if (record := await stream.peek()) is not None:
                    return f"{stream.topic}/{stream.partition} offset {record.offset}"
        return ""

    async def _is_next(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, uncut: bytes | None = None
    ) -> bool:
        """Whether another record with this key is left. Raises Contradiction if its value is not `value` or `uncut`."""
        queue = self._waiting[topic, partition, key]
        stream = self._streams[topic][partition]
        while not queue and await stream.peek() is not None:
            record = stream.take()
            self._waiting[topic, partition, record.key].append((record.offset, self._digest(topic, record.value)))
        if not queue:
            del self._waiting[topic, partition, key]
            return False
        offset, digest = queue.popleft()
        erased_letter = value is None and topic == self._topics.dead_letters
        if digest not in (self._digest(topic, value), self._digest(topic, uncut or value)) and not erased_letter:
            raise Contradiction(f"{topic}/{partition} offset {offset} is not what the restored store brings out for it")
        return True

    def _digest(self, topic: str, value: bytes | None) -> bytes:
        """Hashes a value. Leaves out an event's texts, which may have been erased since it was published."""
        if value is not None and topic == self._topics.events:
            value = published_without_texts(value)
        return b"" if value is None else hashlib.sha256(value).digest()


def _of_shard(topics: Topics, offsets: Ends) -> Ends:
    """Returns the offsets of the shard's own partitions."""
    return {
        topic: {number: offset for number, offset in by_partition.items() if topics.shard.has(number)}
        for topic, by_partition in offsets.items()
    }


class Reconciliation:
    """Compares the store with the topics, and publishes what they lack."""

    def __init__(
        self,
        cluster: Cluster,
        topics: Topics,
        connection: psycopg.AsyncConnection[Any],
        masters: MasterKeys,
        changes: CommitListener,
    ) -> None:
        self._cluster = cluster
        self._topics = topics
        self._connection = connection
        self._masters = masters
        self._changes = changes

    async def bring_together(self, start: Position, ends: Ends, position: Position, publish: Publish) -> Position:
        """Waits until the store has all that is on Kafka. Returns the position from which to publish.

        `start` is the last position that the store knows to be published, when the topics ended at `ends`: the
        comparison begins there. `position` is the last one on Kafka. The relay notes `start` and each compared position
        under a new timeline, so that it notices if the store is restored once more meanwhile.

        If it is interrupted, the next relay begins at the same `start`. Raises Contradiction, NoteMissing, KafkaError
        and psycopg.Error.
        """
        log.warning(
            "the store does not know that outcome %d is published: it was restored to an earlier state, or Kafka ended "
            "a transaction in part. Nothing is published until the store has again, after outcome %d, what is on Kafka",
            position.outcome_id,
            start.outcome_id,
        )
        async with Ahead.after(self._cluster, self._topics, ends) as ahead:
            start = await self._adopt(start, await ahead.notifications())
            position, new = await self._compare(ahead, start)
        log.info("the store has again what is on Kafka; %d outcomes are new", len(new))
        for first in range(0, len(new), RUN):
            async with self._connection.transaction():
                decided = [
                    (await one_with_events(self._connection, self._masters, outcome_id, event_id), missing)
                    for outcome_id, event_id, missing in new[first : first + RUN]
                ]
                await note_intent(self._connection, position, position)
            await publish(
                (
                    record
                    for one, missing in decided
                    for place, record in enumerate(records(one, self._topics))
                    if place in missing
                ),
                None,
            )
        await publish([], position)
        return position

    async def _compare(self, ahead: Ahead, at: Position) -> tuple[Position, list[tuple[int, int, list[int]]]]:
        """Compares the store with the topics. Returns how far it compared, and the outcomes that are not on Kafka.

        Each of these is an outcome's number, the number of the event before its own, and which of its records are
        missing.
        """
        new: list[tuple[int, int, list[int]]] = []
        commands = await self._commands_ends()
        idle = False
        while True:
            progress("relay")
            seen = self._changes.seen()
            nothing_to_come = idle and await self._all_judged(commands)
            for decided in (run := await self._next(at)):
                if missing := await ahead.missing(decided):
                    new.append((decided[0].outcome_id, at.event_id, missing))
                at = _after(at, decided[0])
            idle = not run
            if not (left := await ahead.left()):
                return at, new
            if idle and nothing_to_come:
                raise Contradiction(f"{left} follows from none of the commands that are on {self._topics.commands}")
            if idle:
                await self._changes.after(seen)

    async def _next(self, at: Position) -> list[Decided]:
        """Returns the next outcomes with their events, and notes them as about to be published."""
        async with self._connection.transaction():
            outcomes = await unpublished_outcomes(self._connection, at)
            decided = await with_events(self._connection, self._masters, outcomes, at.event_id)
            await note_intent(self._connection, at, _after(at, outcomes[-1]) if outcomes else at)
        return decided

    async def _commands_ends(self) -> dict[int, int]:
        _, ends = await extents(
            self._cluster, [self._topics.commands], await count_partitions(self._cluster, self._topics)
        )
        return _of_shard(self._topics, ends)[self._topics.commands]

    async def _all_judged(self, ends: dict[int, int]) -> bool:
        """Whether all commands before these offsets are judged, and none is parked."""
        [any_parked] = await fetch_row_async(self._connection, "SELECT EXISTS (SELECT FROM parked_commands)")
        if any_parked:
            log.warning("outcomes on Kafka may be those of parked orders: retry these (resolution parked retry)")
            return False
        cursor = await self._connection.execute(
            "SELECT partition, next_offset - base FROM positions WHERE consumer = 'commands'"
        )
        read = dict(await cursor.fetchall())
        if not all(number in read for number in ends):
            return False
        async with open_streams(self._cluster, self._topics.commands, read, ends) as streams:
            return all([await stream.peek() is None for stream in streams.values()])

    async def _adopt(self, start: Position, published: Sequence[bytes]) -> Position:
        """Stores the reminders that are on Kafka after `start`, so that the relay does not publish them again.

        Reminders that the store has, but not Kafka, get the numbers after them. Returns `start` with the number of the
        last reminder on Kafka.
        """
        after = start.notification_id
        on_kafka = {_reminder(message): message for message in published}
        async with self._connection.transaction():
            await lock_appends_async(self._connection)
            cursor = await self._connection.execute(
                "WITH moved AS (DELETE FROM notifications WHERE notification_id > %s RETURNING *) "
                "SELECT order_id, dispute_id, hours, message FROM moved ORDER BY notification_id",
                (after,),
            )
            known = {(order_id, dispute_id, hours): message async for order_id, dispute_id, hours, message in cursor}
            rows = [*on_kafka.items(), *((key, message) for key, message in known.items() if key not in on_kafka)]
            async with self._connection.cursor() as insert:
                await insert.executemany(
                    "INSERT INTO notifications (notification_id, order_id, dispute_id, hours, message) "
                    "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (order_id, dispute_id, hours) DO NOTHING",
                    [(number, *key, message) for number, (key, message) in enumerate(rows, after + 1)],
                )
            end = structs.replace(start, notification_id=after + len(on_kafka))
            await note_intent(self._connection, start, end)
        return end


def _after(at: Position, outcome: StoredOutcome) -> Position:
    return structs.replace(at, outcome_id=outcome.outcome_id, event_id=outcome.last_event_id)


def _check_begins(begins: Ends, starts: Ends) -> None:
    for topic, first in begins.items():
        for number, offset in first.items():
            if offset > starts[topic][number]:
                raise Contradiction(
                    f"{topic}/{number} begins at {offset}, but the restored store knows it up to "
                    f"{starts[topic][number]}: what was published in between has expired and cannot be compared"
                )


def _reminder(message: bytes) -> tuple[str, str, int]:
    envelope = msgspec.json.decode(message)
    data = envelope["data"]
    number = data["hours_before"] if "hours_before" in data else NUMBERS[data["reminder"]]
    return envelope["subject"], data["dispute_id"], number
