"""Reads history for a what-if: the stored outcomes and events of a shard, and the commands on their topic."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import psycopg
from eventsourcing.persistence import MapperDeserialisationError
from resolution_contracts.commands import RegisterOrder

from services.audit.earlier_rules import code_of
from services.audit.judged_commands import JudgedCommands, as_first_sent
from services.audit.stored_history import store_end
from services.clock import Clock
from services.eventstore.database import connect
from services.eventstore.event_codec import Stored, decode_event
from services.eventstore.outcomes import outcomes_between
from services.eventstore.parking import parked_since
from services.eventstore.positions import commands_bases
from services.eventstore.read_events import events_between
from services.failures import Failure
from services.judging.decode import Received
from services.judging.judge import read
from services.judging.outcomes import Outcome
from services.judging.partitioner import partition_of
from services.judging.record import Record
from services.kafka.read_topics import Stream, extents, open_streams
from services.kafka.topics import Topics, count_partitions
from services.orders.events import Event, OrderRegistered
from services.retention.months import months_kept, read_retired
from services.sealing.order_keys import WITHOUT_TEXTS
from services.settings import Settings

from .comparison import Asked, Comparison, Course, Step
from .stored_commands import command_of

_CHUNK = 10_000
_MORE = " `resolution verify` says what else differs."
_find_name = re.compile(rb'"command":"(\w+)"').search
_find_settled_as = re.compile(rb'"settled_as":"(\w+)"').search


class CannotFollow(Failure):
    """The stored history cannot be followed. The text says where."""


class NotJudged(NamedTuple):
    """How many commands were not judged again, because nobody has judged them."""

    parked: int
    waiting: int
    retired: int
    """How many events have a retired outcome. What was refused beside them is not known any more."""


def compare_shard(
    settings: Settings, clock: Clock, comparison: Comparison, progress: Callable[[int, int], None]
) -> NotJudged:
    """Judges a shard's history again. Calls `progress(done, total)`.

    The service may run meanwhile: what it judges later is left out. Raises CannotFollow, TopicError, KafkaError and
    psycopg.Error.
    """
    with months_kept(settings.database):
        return asyncio.run(_compare(settings, clock, comparison, progress))


async def _compare(
    settings: Settings, clock: Clock, comparison: Comparison, progress: Callable[[int, int], None]
) -> NotJudged:
    topics = Topics(settings.topic_prefix, settings.shard)
    partitions = await count_partitions(settings.cluster, topics)
    own = list(settings.shard.partitions(partitions))
    with connect(settings.database, autocommit=True) as connection:
        end, bases, retired = store_end(connection), commands_bases(connection), read_retired(connection)
        parked = parked_since(connection)
        begins, ends = await extents(settings.cluster, [topics.commands], partitions, only_visible=True)
        now = clock.now()
        starts = {n: begins[topics.commands][n] + bases.get(n, 0) for n in own}
        last = {n: max(ends[topics.commands][n] + bases.get(n, 0), starts[n]) for n in own}
        async with open_streams(settings.cluster, topics.commands, starts, last, bases) as streams:
            again = Again(connection, clock, comparison)
            commands = JudgedCommands(streams)
            again.retired(retired.event_id)
            for after in range(retired.outcome_id, end.outcome_id, _CHUNK):
                up_to = min(after + _CHUNK, end.outcome_id)
                await again.judged(own, after, up_to, commands, starts)
                progress(up_to, end.outcome_id)
            unjudged = {n: await _first_after(streams[n], end.judged.get(n, 0)) for n in own}
    first = {n: clock.of_record(record.timestamp) for n, record in unjudged.items() if record is not None}
    waits = {order_id: clock.of_record(timestamp) for order_id, timestamp in parked.items()}

    def until(order_id: str) -> datetime:
        partition = partition_of(order_id.encode(), partitions)
        return min(now, first.get(partition, now), waits.get(order_id, now))

    comparison.end(until)
    waiting = sum(max(0, last[n] - max(end.judged.get(n, 0), starts[n])) for n in own if n in first)
    return NotJudged(len(end.parked), waiting, retired.event_id)


async def _first_after(stream: Stream, judged: int) -> Record | None:
    """Returns the first command from the offset `judged` on, or None."""
    while (record := await stream.peek()) is not None and record.offset < judged:
        stream.take()
    return record


class Again:
    """Takes stored outcomes with their events, in the order of judging, and gives their commands to a comparison."""

    def __init__(self, connection: psycopg.Connection[Any], clock: Clock, comparison: Comparison) -> None:
        self._connection = connection
        self._clock = clock
        self._comparison = comparison

    def retired(self, last: int) -> None:
        """Takes the events up to number `last`, whose outcomes were retired: those of each command together."""
        events = (decoded(row) for row in self._numbered_up_to(last))
        for (order_id, _), of_command in groupby(events, lambda event: (event.originator_id, event.command_id)):
            self.take(Step(order_id, "", "", "", list(of_command)), None)

    def _numbered_up_to(self, last: int) -> Iterator[Stored]:
        for after in range(0, last, _CHUNK):
            yield from events_between(self._connection, after, min(after + _CHUNK, last))

    async def judged(
        self, partitions: Sequence[int], after: int, last: int, commands: JudgedCommands, starts: Mapping[int, int]
    ) -> None:
        """Takes the outcomes numbered above `after`, up to `last`.

        `starts`: the first offset whose command has not expired, by partition.
        """
        rows = await asyncio.to_thread(outcomes_between, self._connection, partitions, after, last)
        if not rows:
            return
        numbers = rows[0].before, rows[-1].last_event_id
        stored = await asyncio.to_thread(events_between, self._connection, *numbers)
        events = {row.notification_id: row for row in stored}
        for row in rows:
            expired = row.record_offset < starts[row.partition]
            record = None if expired else await _record(commands, row)
            if row.kind.is_first_use:
                self.take(step_of(row, [decoded(events[n]) for n in row.event_ids if n in events]), record)

    def take(self, step: Step, record: Record | None) -> tuple[Course, Course] | None:
        """Gives a step to the comparison, with its command. See `Comparison.take`."""
        if (order := self._comparison.order(step.order_id)) is not None:
            if record is not None:
                record = as_first_sent(self._connection, record)
                step.as_before = partial(_reading, record, self._clock.of_record, as_before=True)
                step.asked = _reading(record, self._clock.of_record) or step.as_before()
            elif (found := command_of(order, step.events)) is not None:
                command, event = found
                step.asked = Asked(command, event.command_id, event.timestamp)
                step.name = step.name or type(command).__name__
        elif not step.name and step.events and isinstance(step.events[0], OrderRegistered):
            step.name = RegisterOrder.__name__
        try:
            return self._comparison.take(step)
        except ValueError as error:
            raise CannotFollow(f"{error}.{_MORE}") from error


async def _record(commands: JudgedCommands, row: Outcome) -> Record:
    if (record := await commands.take(row.partition, row.record_offset)) is None:
        at = f"{row.partition}/{row.record_offset}"
        raise CannotFollow(f"The command at {at} has an outcome, but is not on the topic.{_MORE}")
    return record


def step_of(row: Outcome, events: Sequence[Event]) -> Step:
    """Returns the step of an outcome with its events."""
    message = row.message or b""
    name, settled_as = _find_name(message), _find_settled_as(message)
    return Step(
        row.order_id,
        name[1].decode() if name else "",
        code_of(message),
        settled_as[1].decode() if settled_as else "",
        events,
    )


def decoded(row: Stored) -> Event:
    """Returns a stored event without its texts. Raises CannotFollow."""
    try:
        return decode_event(row, WITHOUT_TEXTS)
    except MapperDeserialisationError as error:
        raise CannotFollow(f"{error}{_MORE}") from error


def _reading(record: Record, business_time: Callable[[int], datetime], *, as_before: bool = False) -> Asked | None:
    """Reads a command as this version does, or as earlier versions did. Returns None if it is none."""
    [(_, reading)] = read([record], business_time, None, as_before=as_before)
    if not isinstance(reading, Received):
        return None
    return Asked(reading.command, reading.command_id, reading.time, as_before)
