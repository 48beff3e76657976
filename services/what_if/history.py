"""Reads history for a what-if: the stored outcomes and events of a shard, and the commands on their topic."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import psycopg
from eventsourcing.persistence import MapperDeserialisationError

from services.audit.earlier_rules import code_of
from services.audit.judged_commands import JudgedCommands, as_first_sent
from services.audit.stored_history import store_end
from services.clock import Clock
from services.eventstore.database import connect
from services.eventstore.event_codec import Stored, decode_event
from services.eventstore.outcomes import outcomes_between
from services.eventstore.positions import commands_bases
from services.eventstore.read_events import events_between
from services.failures import Failure
from services.judging.decode import Received
from services.judging.judge import read
from services.judging.outcomes import Outcome
from services.judging.record import Record
from services.kafka.read_topics import extents, open_streams
from services.kafka.topics import Topics, count_partitions
from services.orders.events import Event
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


def compare_shard(
    settings: Settings, clock: Clock, comparison: Comparison, progress: Callable[[int, int], None]
) -> int:
    """Judges a shard's history again. Calls `progress(done, total)`. Returns how many commands are parked, not judged.

    The service may run meanwhile: what it judges later is left out. Raises CannotFollow, TopicError, KafkaError and
    psycopg.Error.
    """
    with months_kept(settings.database):
        return asyncio.run(_compare(settings, clock, comparison, progress))


async def _compare(
    settings: Settings, clock: Clock, comparison: Comparison, progress: Callable[[int, int], None]
) -> int:
    topics = Topics(settings.topic_prefix, settings.shard)
    partitions = await count_partitions(settings.cluster, topics)
    begins, _ = await extents(settings.cluster, [topics.commands], partitions)
    own = list(settings.shard.partitions(partitions))
    with connect(settings.database, autocommit=True) as connection:
        end, bases, retired = store_end(connection), commands_bases(connection), read_retired(connection)
        starts = {n: begins[topics.commands][n] + bases.get(n, 0) for n in own}
        ends = {n: max(end.judged.get(n, 0), start) for n, start in starts.items()}
        async with open_streams(settings.cluster, topics.commands, starts, ends, bases) as streams:
            again = Again(connection, clock, comparison)
            commands = JudgedCommands(streams)
            for after in range(0, retired.event_id, _CHUNK):
                await again.retired(after, min(after + _CHUNK, retired.event_id))
            for after in range(retired.outcome_id, end.outcome_id, _CHUNK):
                last = min(after + _CHUNK, end.outcome_id)
                await again.judged(own, after, last, commands, starts)
                progress(last, end.outcome_id)
    comparison.end(clock.now())
    return len(end.parked)


class Again:
    """Takes stored outcomes with their events, in the order of judging, and gives their commands to a comparison."""

    def __init__(self, connection: psycopg.Connection[Any], clock: Clock, comparison: Comparison) -> None:
        self._connection = connection
        self._clock = clock
        self._comparison = comparison

    async def retired(self, after: int, last: int) -> None:
        """Takes the events numbered above `after`, up to `last`, whose outcomes were retired."""
        for row in await asyncio.to_thread(events_between, self._connection, after, last):
            event = decoded(row)
            self.take(Step(event.originator_id, "", "", "", [event]), None)

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
        try:
            return self._comparison.take(step)
        except ValueError as error:
            raise CannotFollow(f"{error}.{_MORE}") from error


async def _record(commands: JudgedCommands, row: Outcome) -> Record:
    if (record := await commands.take(row.partition, row.record_offset)) is None:
        at = f"{row.partition}/{row.record_offset}"
        raise CannotFollow(f"There is no command at {at}, which has an outcome.{_MORE}")
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
