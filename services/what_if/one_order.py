"""Judges one order again under other terms, step by step."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from resolution_contracts.values import format_instant

from services.clock import Clock
from services.eventstore.database import connect
from services.eventstore.outcomes import StoredOutcome, outcomes_of_order
from services.eventstore.positions import commands_bases
from services.eventstore.read_events import histories_of, newest_event
from services.judging.record import Record
from services.kafka.read_topics import records_at
from services.kafka.topics import Topics
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
    with connect(settings.database, autocommit=True) as connection:
        stored = histories_of(connection, [order_id], newest_event(connection)).get(order_id, [])
        events = [decoded(row) for row in stored]
        outcomes = outcomes_of_order(connection, order_id, repeats=False)
        bases = commands_bases(connection)
        records = asyncio.run(_records(settings, outcomes, bases))
        after: list[Event] = []
        comparison = Comparison(change, after.append)
        again = Again(connection, clock, comparison)
        shown = []
        for outcome, step in _steps(order_id, outcomes, events):
            record = None if outcome is None else records.get(outcome.record_offset)
            if (courses := again.take(step, record)) is not None:
                time = step.events[0].timestamp if step.events else None
                if step.asked is not None:
                    time = step.asked.time
                shown.append(_shown(step.name, outcome, time, *courses))
        order = comparison.order(order_id)
        if order is None:
            return []
        now, count = clock.now(), len(after)
        due = auto_acceptance(order, now)
        comparison.end(now)
        if due or after[count:]:
            shown.append(_shown("", None, now, Course("", due), Course("", after[count:])))
    return shown


async def _records(settings: Settings, outcomes: Sequence[StoredOutcome], bases: dict[int, int]) -> dict[int, Record]:
    if not outcomes:
        return {}
    partition, topic = outcomes[0].partition, Topics(settings.topic_prefix, settings.shard).commands
    offsets = {outcome.record_offset for outcome in outcomes}
    return await records_at(settings.cluster, topic, partition, offsets, bases.get(partition, 0))


def _steps(
    order_id: str, outcomes: Sequence[StoredOutcome], events: Sequence[Event]
) -> Iterator[tuple[StoredOutcome | None, Step]]:
    """Yields the order's outcomes with their events, in the order of judging. Retired outcomes have events only."""
    of_outcomes: dict[str, list[Event]] = {outcome.command_id: [] for outcome in outcomes}
    for event in events:
        if event.command_id in of_outcomes:
            of_outcomes[event.command_id].append(event)
        else:
            yield None, Step(order_id, "", "", "", [event])
    for outcome in outcomes:
        yield outcome, step_of(outcome, of_outcomes[outcome.command_id])


def _shown(name: str, outcome: StoredOutcome | None, time: datetime | None, before: Course, after: Course) -> Json:
    return {
        "command": name or None,
        "command_id": None if outcome is None else outcome.command_id,
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
