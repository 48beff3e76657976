"""A store that was restored to an earlier state than Kafka: it and the topics are brought together again.

The commands role reads on from the restored positions, and what it judges again comes out as it did before. Its numbers
may differ, since partitions mix differently; so what comes out is compared with what is on the topics, order by order,
from where they ended when the store noted it. Nothing is published until all that is there has come out again. What
differs from it is a contradiction, and ends the role. So does what cannot come out any more.
"""

import hashlib
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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
from services.orders.public_events import event_message
from services.orders.texts import published_without_texts
from services.relay.store_notes import note_intent
from services.sealing.master_keys import MasterKeys
from services.telemetry.health import progress

from .unpublished import RUN, Decided, Notification, one_with_events, outcome_record, unpublished_outcomes, with_events

log = logging.getLogger(__name__)

Publish = Callable[[Sequence[Decided], Sequence[Notification], Position | None], Awaitable[None]]


class Contradiction(Exception):
    """What is on Kafka does not come out of the store: a sentence that says where, without values, and what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}. Nothing is published. docs/backup.md says what may have happened to the restored database, and "
            "what to do."
        )


class Ahead:
    """What is on the topics behind a place. For each key it has to come out in its order."""

    def __init__(self, topics: Topics, streams: dict[str, dict[int, Stream]]) -> None:
        self._topics = topics
        self._streams = streams
        self._waiting: defaultdict[tuple[str, int, bytes | None], deque[tuple[int, bytes]]] = defaultdict(deque)

    @classmethod
    @asynccontextmanager
    async def behind(cls, cluster: Cluster, topics: Topics, starts: Ends) -> AsyncIterator["Ahead"]:
        """`starts` names no topic where the place is the very beginning. Raises Contradiction and KafkaError."""
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

    async def has(self, decided: Decided) -> bool:
        """Whether an outcome and its events are there; they were published together. Raises Contradiction."""
        outcome, events = decided
        records = [
            (self._topics.events, outcome.partition, event.originator_id.encode(), event_message(event))
            for event in events
        ]
        found = [await self._is_next(*record) for record in records]
        # An earlier version published the whole of a large dead letter.
        found.append(await self._is_next(*outcome_record(outcome, self._topics)[:4], whole=outcome.message))
        if any(found) is not all(found):
            raise Contradiction(
                f"order {outcome.order_id}: of outcome {outcome.outcome_id} and its events only some are on Kafka"
            )
        return all(found)

    async def notifications(self) -> list[bytes]:
        """All of them."""
        found: list[bytes] = []
        for stream in self._streams.pop(self._topics.notifications).values():
            while await stream.peek() is not None:
                value = stream.take().value
                assert value is not None
                found.append(value)
        return found

    async def left(self) -> str:
        """The place of something that has not come out yet; empty where all has."""
        for (topic, partition, _), queue in self._waiting.items():
            if queue:
                return f"{topic}/{partition} offset {queue[0][0]}"
        for streams in self._streams.values():
            for stream in streams.values():
                if (record := await stream.peek()) is not None:
                    return f"{stream.topic}/{stream.partition} offset {record.offset}"
        return ""

    async def _is_next(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, whole: bytes | None = None
    ) -> bool:
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
        if digest not in (self._digest(topic, value), self._digest(topic, whole or value)) and not erased_letter:
            raise Contradiction(f"{topic}/{partition} offset {offset} is not what the restored store brings out for it")
        return True

    def _digest(self, topic: str, value: bytes | None) -> bytes:
        """Of an event without its texts, which may have been erased since it was published."""
        if value is not None and topic == self._topics.events:
            value = published_without_texts(value)
        return b"" if value is None else hashlib.sha256(value).digest()


def _of_shard(topics: Topics, offsets: Ends) -> Ends:
    """Of the partitions that the shard has."""
    return {
        topic: {number: offset for number, offset in found.items() if topics.shard.has(number)}
        for topic, found in offsets.items()
    }


class Restored:
    """Brings a restored store and the topics together."""

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
        """Returns the position from which to go on, once the store has brought out all that is on Kafka.

        `start` is where the comparison begins: the last that the store knows to be published, when the topics ended at
        `ends`. It is noted in a timeline of its own, and so is how far the store was compared: one that falls back
        again meanwhile is noticed. `position` is the last on Kafka.

        Whatever interrupts it, the next one begins where this one did. Raises Contradiction, NoteMissing, KafkaError,
        psycopg.Error.
        """
        log.warning(
            "the store does not know that outcome %d is published: it was restored to an earlier state. Nothing is "
            "published until what is on Kafka has come out again, behind outcome %d",
            position.outcome_id,
            start.outcome_id,
        )
        async with Ahead.behind(self._cluster, self._topics, ends) as ahead:
            start = await self._adopt(start, await ahead.notifications())
            position, new = await self._compare(ahead, start)
        log.info("all that is on Kafka has come out again; %d outcomes are new", len(new))
        for first in range(0, len(new), RUN):
            async with self._connection.transaction():
                decided = [
                    await one_with_events(self._connection, self._masters, *place) for place in new[first : first + RUN]
                ]
                await note_intent(self._connection, position, position)
            await publish(decided, [], None)
        await publish([], [], position)
        return position

    async def _compare(self, ahead: Ahead, at: Position) -> tuple[Position, list[tuple[int, int]]]:
        """Up to where the store was compared, and what is not on Kafka of it: outcomes, and the event before each."""
        new: list[tuple[int, int]] = []
        commands = await self._commands_ends()
        idle = False
        while True:
            progress("relay")
            seen = self._changes.seen()
            nothing_to_come = idle and await self._all_judged(commands)
            for decided in (found := await self._next(at)):
                if not await ahead.has(decided):
                    new.append((decided[0].outcome_id, at.event_id))
                at = _behind(at, decided[0])
            idle = not found
            if not (left := await ahead.left()):
                return at, new
            if idle and nothing_to_come:
                raise Contradiction(f"{left} follows from none of the commands that are on {self._topics.commands}")
            if idle:
                await self._changes.after(seen)

    async def _next(self, at: Position) -> list[Decided]:
        """What follows, which is noted."""
        async with self._connection.transaction():
            outcomes = await unpublished_outcomes(self._connection, at)
            decided = await with_events(self._connection, self._masters, outcomes, at.event_id)
            await note_intent(self._connection, at, _behind(at, outcomes[-1]) if outcomes else at)
        return decided

    async def _commands_ends(self) -> dict[int, int]:
        _, ends = await extents(
            self._cluster, [self._topics.commands], await count_partitions(self._cluster, self._topics)
        )
        return _of_shard(self._topics, ends)[self._topics.commands]

    async def _all_judged(self, ends: dict[int, int]) -> bool:
        """Whether nothing comes out any more of the commands before these ends: all are judged, and none is parked."""
        [any_parked] = await fetch_row_async(self._connection, "SELECT EXISTS (SELECT FROM parked_commands)")
        if any_parked:
            log.warning("what is on Kafka has to come out of parked orders, too: retry them (resolution parked retry)")
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
        """Enters the reminders that are on Kafka behind `start`, as those that follow it, so that none is sent again;
        what was decided anew comes behind them. Returns `start` with the number of the last one that is on Kafka."""
        after = start.notification_id
        told = {_reminder(message): message for message in published}
        async with self._connection.transaction():
            await lock_appends_async(self._connection)
            cursor = await self._connection.execute(
                "WITH moved AS (DELETE FROM notifications WHERE notification_id > %s RETURNING *) "
                "SELECT order_id, dispute_id, hours, message FROM moved ORDER BY notification_id",
                (after,),
            )
            known = {(order_id, dispute_id, hours): message async for order_id, dispute_id, hours, message in cursor}
            rows = [*told.items(), *((key, message) for key, message in known.items() if key not in told)]
            async with self._connection.cursor() as insert:
                await insert.executemany(
                    "INSERT INTO notifications (notification_id, order_id, dispute_id, hours, message) "
                    "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (order_id, dispute_id, hours) DO NOTHING",
                    [(number, *key, message) for number, (key, message) in enumerate(rows, after + 1)],
                )
            end = structs.replace(start, notification_id=after + len(told))
            await note_intent(self._connection, start, end)
        return end


def _behind(at: Position, outcome: StoredOutcome) -> Position:
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
    return envelope["subject"], envelope["data"]["dispute_id"], envelope["data"]["hours_before"]
