"""Judges one order again under other terms, step by step."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
from resolution_contracts.values import format_instant

from services.clock import Clock
from services.eventstore.database import connect
from services.eventstore.outcomes import StoredOutcome, outcomes_of_order
from services.eventstore.parking import parked_since
from services.eventstore.positions import commands_bases, judged_up_to
from services.eventstore.read_events import histories_of, newest_event
from services.judging.partitioner import partition_of
from services.judging.record import Record
from services.kafka.read_topics import first_from, records_at
from services.kafka.topics import Topics, count_partitions
from services.orders.decide import auto_acceptance
from services.orders.events import Event
from services.orders.public_events import public_data
from services.orders.texts import without_texts
from services.settings import Settings

from .change import Change
from .comparison import Comparison, Course, Step
from .history import Again, decoded, step_of

Json = dict[str, Any]


def judge_order_again(settings: Settings, clock: Clock, order_id: str, change: Change) -> list[Json]:
    """Returns what came of each command on an order, and what would have come of it under the change, oldest first.

    Each has `command`, `command_id` and `time`, and `before` and `after` with `outcome` and `events`. The last one may
    be a deadline that has passed, without a command. Returns an empty list for an order that has no events, or that the
    change leaves out. Raises CannotFollow, KafkaError and psycopg.Error.
    """
    with connect(settings.database) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        stored = histories_of(connection, [order_id], newest_event(connection)).get(order_id, [])
        outcomes = outcomes_of_order(connection, order_id, repeats=False)
        bases, parked = commands_bases(connection), parked_since(connection).get(order_id)
        judged = judged_up_to(connection)
        found = asyncio.run(_read(settings, order_id, outcomes, bases, judged))
        after: list[Event] = []
        comparison = Comparison(change, after.append)
        again = Again(connection, clock, comparison)
        shown = []
        for outcome, step in _steps(order_id, outcomes, [decoded(row) for row in stored]):
            record = None if outcome is None else found.records.get((outcome.partition, outcome.record_offset))
            if (courses := again.take(step, record)) is not None:
                time = step.asked.time if step.asked else max((event.timestamp for event in step.events), default=None)
                shown.append(_shown(step, outcome, time, *courses))
        order = comparison.order(order_id)
        if order is None:
            return []
        waits = [clock.of_record(time) for time in (parked, found.first_unjudged) if time is not None]
        now, count = min([clock.now(), *waits]), len(after)
        due = auto_acceptance(order, now)
        comparison.end(lambda _: now)
        if due or after[count:]:
            time_passes = Step(order_id, "", "", "", ())
            shown.append(_shown(time_passes, None, now, Course("", due), Course("", after[count:])))
    return shown


class _Found(NamedTuple):
    records: dict[tuple[int, int], Record]
    """The commands, by partition and offset."""
    first_unjudged: int | None
    """The timestamp of the first command in the order's partition that was not judged, in milliseconds."""


async def _read(
    settings: Settings,
    order_id: str,
    outcomes: Sequence[StoredOutcome],
    bases: Mapping[int, int],
    judged: Mapping[int, int],
) -> _Found:
    cluster, topics = settings.cluster, Topics(settings.topic_prefix, settings.shard)
    offsets: defaultdict[int, set[int]] = defaultdict(set)
    for outcome in outcomes:  # earlier versions took commands from any partition
        offsets[outcome.partition].add(outcome.record_offset)
    records: dict[tuple[int, int], Record] = {}
    for partition, of_order in offsets.items():
        found = await records_at(cluster, topics.commands, partition, of_order, bases.get(partition, 0))
        records |= {(partition, offset): record for offset, record in found.items()}
    own = partition_of(
        order_id.encode(), await count_partitions(cluster, Topics(settings.topic_prefix, settings.shard))
    )
    first = await first_from(cluster, topics.commands, own, judged.get(own, 0), bases.get(own, 0))
    return _Found(records, None if first is None else first.timestamp)


def _steps(
    order_id: str, outcomes: Sequence[StoredOutcome], events: Sequence[Event]
) -> Iterator[tuple[StoredOutcome | None, Step]]:
    """Yields the order's outcomes with their events, in the order of judging. Retired outcomes have events only."""
    of_outcomes: dict[str, list[Event]] = {outcome.command_id: [] for outcome in outcomes}
    for command_id, of_command in groupby(events, lambda event: event.command_id):
        if command_id in of_outcomes:
            of_outcomes[command_id] += of_command
        else:
            yield None, Step(order_id, "", "", "", list(of_command))
    for outcome in outcomes:
        yield outcome, step_of(outcome, of_outcomes[outcome.command_id])


def _shown(step: Step, outcome: StoredOutcome | None, time: datetime | None, before: Course, after: Course) -> Json:
    known = step.events[0].command_id if step.events else None
    return {
        "command": step.name or None,
        "command_id": known if outcome is None else outcome.command_id,
        "time": None if time is None else format_instant(time),
        "before": _course(before),
        "after": _course(after),
    }


def _course(course: Course) -> Json:
    return {
        "outcome": course.code or "accepted",
        "events": [
            {
                "sequence": event.originator_version,
                "event": type(event).__name__,
                "time": format_instant(event.timestamp),
                "data": msgspec.to_builtins(public_data(without_texts(event))),
            }
            for event in course.events
        ],
    }
