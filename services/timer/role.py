"""The timer: reads public events, stores the deadlines of open disputes, and publishes `ExpireDispute` when one is due.

It decides nothing: the order judges the deadline by the broker's clock (D3). So it does no harm to publish the command
twice, late or too early, and two timers may run.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata
from resolution_contracts import ExpireDispute, topics
from resolution_contracts.events import (
    Accepted,
    AutoAccepted,
    Declined,
    DisputeClosed,
    DisputeOpened,
    Withdrawn,
)

from services.clock import Clock
from services.eventstore.database import ANSWER_WITHIN_SECONDS, connect_async
from services.eventstore.positions import StoredPositions
from services.fault_points import point
from services.judging.record import Record
from services.kafka.cluster import Cluster
from services.kafka.consumer import PositionedConsumer, Positions
from services.kafka.topics import Topics
from services.telemetry import role_metrics
from services.telemetry.health import progress
from services.waiting import happens_within

from .deadlines import Deadline, Deadlines

_MAX_PUBLISHED_AT_ONCE = 5000
_FIRST_RETRY = timedelta(milliseconds=250)
_LONGEST_RETRY = timedelta(seconds=60)
_SLOW_COMMANDS_PER_SECOND = 1000
_MAX_SLEEP_SECONDS = 5.0
_GATHER_MS = 50  # deadlines are hours ahead, so the timer need not wake up for each event
_ABOUT_DEADLINES = {
    topics.event_type(event.__name__)
    for event in (DisputeOpened, Accepted, AutoAccepted, Declined, DisputeClosed, Withdrawn)
}
_HEADERS = [("content-type", topics.CONTENT_TYPE.encode())]


class _Data(msgspec.Struct, gc=False):
    """What the timer needs of an event. It reads every event there is, so it reads no more."""

    dispute_id: str | None = None
    respond_by: datetime | None = None
    deadline: datetime | None = None


class _Event(msgspec.Struct, gc=False):
    """A public event of any type."""

    type: str
    subject: str
    data: _Data


class _Command(msgspec.Struct, gc=False, kw_only=True):
    """The envelope of `ExpireDispute`."""

    specversion: str = "1.0"
    id: str
    type: str = ExpireDispute.type()
    source: str = "/resolution-center/timer"
    subject: str
    data: dict[str, str]


_decode = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.Encoder().encode


class TimerRole:
    """Stores deadlines, and publishes `ExpireDispute` when they are due."""

    def __init__(self, cluster: Cluster, topics: Topics, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._topics = topics
        self._producer = AIOKafkaProducer(
            **cluster.options, enable_idempotence=True, linger_ms=0, max_batch_size=256 * 1024
        )
        self._deadline_added = asyncio.Event()
        self._connection: psycopg.AsyncConnection | None = None  # of `_record`, which is never called twice at once
        self._consumer = PositionedConsumer(
            cluster,
            topics.events,
            group=topics.prefix + "timer",
            store=StoredPositions(url, "timer"),
            gather_ms=_GATHER_MS,
            shard=topics.shard,
        )

    async def run(self, ready: asyncio.Event) -> None:
        """Reads events and stores their deadlines for ever. A second task publishes `ExpireDispute` for those due.

        After an exception the role can be started again; nothing is lost.
        """
        async with self._consumer.subscribed(ready), asyncio.TaskGroup() as group:
            group.create_task(self._ask_for_ever())
            while True:
                batch = await self._consumer.next_batch()
                await self._consumer.handle(batch, self._keep_deadlines)

    async def _ask_for_ever(self) -> None:
        """Publishes `ExpireDispute` for due deadlines, once the role has read all events that are on the topic.

        Later events settle most disputes that earlier events opened.
        """
        await self._consumer.caught_up()
        try:
            await self._producer.start()
            async with await self._connected() as connection:
                deadlines = Deadlines(connection)
                while True:
                    progress("timer")
                    self._deadline_added.clear()
                    if not await self._ask_about_due(deadlines):
                        await self._sleep(await deadlines.next_ask())
        finally:
            await self._producer.stop()

    async def _ask_about_due(self, deadlines: Deadlines) -> bool:
        """Publishes `ExpireDispute` for due deadlines. Returns whether there were any.

        Publishes first and notes it afterwards: after a crash in between, the timer publishes once more.
        """
        now = datetime.now(UTC)
        due = await deadlines.due(now, _MAX_PUBLISHED_AT_ONCE)
        if not due:
            return False
        point("timer.sending")
        sent = [await self._send(deadline) for deadline in due]
        records = await asyncio.gather(*sent)
        point("timer.asked")
        patience = _time_to_judge(records, await deadlines.judged())
        await deadlines.asked(due, [now + max(_pause(deadline.attempts), patience) for deadline in due])
        point("timer.noted")
        role_metrics.asked(len(due))
        return True

    async def _send(self, deadline: Deadline) -> asyncio.Future[RecordMetadata]:
        # A random id: if a sender had used it early, this command would be a repeat and get the same `not_due`.
        attempt = uuid4()
        command = _Command(id=str(attempt), subject=deadline.order_id, data={"dispute_id": deadline.dispute_id})
        key = deadline.order_id.encode()
        future: asyncio.Future[RecordMetadata] = await self._producer.send(
            self._topics.commands,
            key=key,
            value=_encode(command),
            headers=_HEADERS,
            partition=self._topics.partition_of(key),
        )
        return future

    async def _sleep(self, until: datetime | None) -> None:
        """Sleeps until the next deadline, or until one is added. Never for long, because the clock may be set."""
        seconds = _MAX_SLEEP_SECONDS
        if until is not None:
            seconds = min(seconds, (until - datetime.now(UTC)).total_seconds())
        await happens_within(self._deadline_added, max(seconds, 0))

    async def _record(
        self, opened: Sequence[Deadline], settled: Sequence[tuple[str, str]], moves: dict[int, tuple[int, int]]
    ) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connected()
        await Deadlines(self._connection).record(opened, settled, moves)

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        return await connect_async(self._url, answer_within=ANSWER_WITHIN_SECONDS, autocommit=True)

    async def _keep_deadlines(self, records: Sequence[Record], positions: Positions) -> None:
        """Stores what these events say about deadlines."""
        point("timer.polled")
        opened: dict[tuple[str, str], Deadline] = {}
        settled: list[tuple[str, str]] = []
        for record in records:
            assert record.value is not None
            event = _decode(record.value)
            if event.type not in _ABOUT_DEADLINES:
                continue
            assert event.data.dispute_id is not None
            key = (event.subject, event.data.dispute_id)
            if (respond_by := event.data.respond_by) is not None:  # it was opened
                opened[key] = Deadline(*key, respond_by, self._clock.real(respond_by))
            else:
                if (deadline := event.data.deadline) is not None:  # it was accepted automatically
                    role_metrics.auto_accepted(record.timestamp / 1000 - self._clock.real(deadline).timestamp())
                if opened.pop(key, None) is None:
                    settled.append(key)
        after = {record.partition: record.offset + 1 for record in records}
        moves = {partition: (positions[partition], offset) for partition, offset in after.items()}
        await self._record(list(opened.values()), settled, moves)
        point("timer.recorded")
        if opened:
            self._deadline_added.set()


def _time_to_judge(records: Sequence[RecordMetadata], judged: Mapping[int, int]) -> timedelta:
    """Returns how long a slow commands role takes to judge these records and those before them, at most a minute.

    `judged` is the next offset of the commands role, by partition. To ask again before that would only add commands.
    """
    last = {record.partition: record.offset for record in sorted(records, key=attrgetter("offset"))}
    waiting = sum(max(0, offset + 1 - judged.get(partition, 0)) for partition, offset in last.items())
    return min(timedelta(seconds=waiting / _SLOW_COMMANDS_PER_SECOND), _LONGEST_RETRY)


def _pause(attempts: int) -> timedelta:
    """Returns the pause before the next attempt. It doubles each time, up to a minute."""
    return min(_FIRST_RETRY * (1 << min(attempts, 20)), _LONGEST_RETRY)
