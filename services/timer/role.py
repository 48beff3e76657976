"""The timer: reads the event stream, keeps the deadlines, and asks the order when one is due.

It decides nothing: the order judges the deadline by the broker's clock (D3). So asking twice, late or too early does
no harm, and two timers may run.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from aiokafka import AIOKafkaProducer
from resolution_contracts import CommandEnvelope, EventEnvelope, ExpireDispute
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

from .deadlines import Deadline, Deadlines

_SOURCE = "/resolution-center/timer"
_AT_ONCE = 5000
_FIRST_RETRY = timedelta(milliseconds=250)
_LONGEST_RETRY = timedelta(seconds=60)
_LOOK_EVERY_SECONDS = 5.0
_GATHER_MS = 50  # deadlines lie two days ahead: no need to wake up for each event
_SETTLED = (Accepted, AutoAccepted, Declined, DisputeClosed, Withdrawn)


class TimerRole:
    """Keeps the deadlines and nudges the orders."""

    def __init__(self, cluster: Cluster, topics: Topics, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._topics = topics
        self._producer = AIOKafkaProducer(
            **cluster.options, enable_idempotence=True, linger_ms=0, max_batch_size=256 * 1024
        )
        self._sooner = asyncio.Event()
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
        """Reads events and keeps their deadlines, and beside that asks about those that are due, for ever.

        Raises what went wrong; a new start loses nothing.
        """
        async with self._consumer.subscribed(ready), asyncio.TaskGroup() as group:
            group.create_task(self._ask_for_ever())
            while True:
                batch = await self._consumer.next_batch()
                await self._consumer.handle(batch, self._keep_deadlines)

    async def _ask_for_ever(self) -> None:
        """First all events that are there are read, since most disputes that they open are settled further on."""
        await self._consumer.caught_up()
        await self._producer.start()
        try:
            async with await self._connected() as connection:
                deadlines = Deadlines(connection)
                while True:
                    progress("timer")
                    self._sooner.clear()
                    if not await self._ask_about_due(deadlines):
                        await self._sleep(await deadlines.next_ask())
        finally:
            await self._producer.stop()

    async def _ask_about_due(self, deadlines: Deadlines) -> bool:
        """Publishes ExpireDispute for those that are due; whether there were any.

        Published first, noted second: a crash in between asks again under the same command id, which is a repeat.
        """
        now = datetime.now(UTC)
        due = await deadlines.due(now, _AT_ONCE)
        if not due:
            return False
        point("timer.sending")
        sent = [await self._send(deadline) for deadline in due]
        await asyncio.gather(*sent)
        point("timer.asked")
        await deadlines.asked(due, [now + _pause(deadline.attempts) for deadline in due])
        point("timer.noted")
        role_metrics.asked(len(due))
        return True

    async def _send(self, deadline: Deadline) -> asyncio.Future[object]:
        # An id that nobody can foresee: who used it before would get `not_due`, and so would this command.
        attempt = uuid4()
        command = CommandEnvelope.of(
            deadline.order_id, ExpireDispute(dispute_id=deadline.dispute_id), source=_SOURCE, id=str(attempt)
        )
        future: asyncio.Future[object] = await self._producer.send(
            self._topics.commands,
            key=command.key,
            value=command.to_json(),
            headers=command.headers,
            partition=self._topics.partition_of(command.key),
        )
        return future

    async def _sleep(self, until: datetime | None) -> None:
        """Until the next deadline, or one that comes in meanwhile; and not too long, since clocks are set."""
        seconds = _LOOK_EVERY_SECONDS
        if until is not None:
            seconds = min(seconds, (until - datetime.now(UTC)).total_seconds())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._sooner.wait(), max(seconds, 0))

    async def _record(
        self, opened: Sequence[Deadline], settled: Sequence[tuple[str, str]], moves: dict[int, tuple[int, int]]
    ) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connected()
        await Deadlines(self._connection).record(opened, settled, moves)

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        return await connect_async(self._url, answer_within=ANSWER_WITHIN_SECONDS, autocommit=True)

    async def _keep_deadlines(self, records: Sequence[Record], positions: Positions) -> None:
        """Records what a batch of events says about deadlines."""
        point("timer.polled")
        opened: dict[tuple[str, str], Deadline] = {}
        settled: list[tuple[str, str]] = []
        for record in records:
            assert record.value is not None
            envelope = EventEnvelope.model_validate_json(record.value)
            if not _about_deadlines(envelope):
                continue
            event = envelope.event()
            if isinstance(event, DisputeOpened):
                ask_at = self._clock.real(event.respond_by)
                deadline = Deadline(envelope.subject, event.dispute_id, event.respond_by, ask_at)
                opened[envelope.subject, event.dispute_id] = deadline
            elif isinstance(event, _SETTLED):
                if isinstance(event, AutoAccepted):
                    late = record.timestamp / 1000 - self._clock.real(event.deadline).timestamp()
                    role_metrics.auto_accepted(late)
                key = (envelope.subject, event.dispute_id)
                if opened.pop(key, None) is None:
                    settled.append(key)
        after = {record.partition: record.offset + 1 for record in records}
        moves = {partition: (positions[partition], offset) for partition, offset in after.items()}
        await self._record(list(opened.values()), settled, moves)
        point("timer.recorded")
        if opened:
            self._sooner.set()


def _about_deadlines(envelope: EventEnvelope) -> bool:
    return envelope.name in {event.__name__ for event in (DisputeOpened, *_SETTLED)}


def _pause(attempts: int) -> timedelta:
    """Before asking again: doubled each time."""
    return min(_FIRST_RETRY * (1 << min(attempts, 20)), _LONGEST_RETRY)
