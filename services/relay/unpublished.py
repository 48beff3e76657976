"""Reads what the relay has to publish from the store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import psycopg
from msgspec.structs import replace
from psycopg.rows import class_row

from services.eventstore.database import fetch_row_async
from services.eventstore.outcomes import StoredOutcome, next_outcomes, outcome_numbered
from services.eventstore.read_events import events_between_async, read_with_texts_async
from services.judging.dead_letters import published_letter
from services.judging.outcomes import OutcomeKind
from services.kafka.relay_position import Position
from services.kafka.topics import Topics
from services.orders.events import Event
from services.orders.public_events import event_message
from services.retention.months import RETIRED, Retired
from services.sealing.master_keys import MasterKeys
from services.telemetry import traces

from .batches import CONTENT_TYPE, Headers

RUN = 4000
"""How many outcomes a Kafka transaction has at most."""

_RUN_BYTES = 16 * 1024 * 1024
"""At most this many bytes per Kafka transaction; the last outcome may exceed it, because dead letters can be large."""


Record = tuple[str, int, bytes | None, bytes | None, Headers]
"""Topic, partition, key, value and headers."""

Decided = tuple[StoredOutcome, list[Event]]
"""An outcome with its events."""


def size(outcome: StoredOutcome) -> int:
    """Returns how many bytes of an outcome are published."""
    return sum(len(part or b"") for part in (outcome.message, outcome.key, outcome.headers))


def records(decided: Decided, topics: Topics) -> Iterator[Record]:
    """Yields what is published for an outcome: its events, and the outcome or dead letter."""
    outcome, events = decided
    for event in events:  # they are in the partition of their command
        yield topics.events, outcome.partition, _key(event), event_message(event), _headers(outcome)
    if outcome.kind is not OutcomeKind.DEAD:
        yield topics.outcomes, outcome.partition, outcome.order_id.encode(), outcome.message, _headers(outcome)
        return
    stored = msgspec.json.decode(outcome.headers or b"", type=list[tuple[str, bytes | None]])
    letter_key, value, headers = published_letter(outcome.key, outcome.message, stored)
    yield topics.dead_letters, outcome.partition, letter_key, value, list(headers)


def _key(event: Event) -> bytes:
    return str(event.originator_id).encode()


def _headers(outcome: StoredOutcome) -> Headers:
    if outcome.traceparent is None:
        return CONTENT_TYPE
    return [*CONTENT_TYPE, (traces.TRACEPARENT, outcome.traceparent.encode())]


@dataclass
class Notification:
    """A reminder: a row of the table `notifications`."""

    notification_id: int
    order_id: str
    message: bytes

    def record(self, topics: Topics) -> Record:
        """Returns what is published for it."""
        key = self.order_id.encode()
        return topics.notifications, topics.partition_of(key), key, self.message, CONTENT_TYPE


async def unpublished_outcomes(connection: psycopg.AsyncConnection[Any], position: Position) -> list[StoredOutcome]:
    """Returns the next run of outcomes after a position. Raises psycopg.Error."""
    return await next_outcomes(connection, position.outcome_id, RUN, _RUN_BYTES)


async def next_notifications(connection: psycopg.AsyncConnection[Any], position: Position) -> list[Notification]:
    """Returns the next run of reminders after a position. Raises psycopg.Error."""
    async with connection.cursor(row_factory=class_row(Notification), binary=True) as cursor:
        await cursor.execute(
            "SELECT notification_id, order_id, message FROM notifications WHERE notification_id > %s "
            "ORDER BY notification_id LIMIT %s",
            (position.notification_id, RUN),
            prepare=True,
        )
        return await cursor.fetchall()


def is_full(outcomes: Sequence[StoredOutcome], notifications: Sequence[Notification]) -> bool:
    """Whether the run is full, so that more may follow."""
    return RUN in (len(outcomes), len(notifications)) or sum(map(size, outcomes)) >= _RUN_BYTES


async def with_events(
    connection: psycopg.AsyncConnection[Any], masters: MasterKeys, outcomes: Sequence[StoredOutcome], event_id: int
) -> list[Decided]:
    """Returns each of these consecutive outcomes with its events. `event_id`: the last event before the first outcome.

    Raises MasterKeyError, MapperDeserialisationError and psycopg.Error.
    """
    if not outcomes or outcomes[-1].last_event_id == event_id:
        return [(outcome, []) for outcome in outcomes]
    stored = await events_between_async(connection, event_id, outcomes[-1].last_event_id)
    events = iter(await read_with_texts_async(connection, masters, stored))
    decided: list[Decided] = []
    for outcome in outcomes:
        decided.append((outcome, list(islice(events, outcome.last_event_id - event_id))))
        event_id = outcome.last_event_id
    return decided


async def retired_up_to(connection: psycopg.AsyncConnection[Any]) -> Retired:
    """Returns up to where outcomes are retired. Raises psycopg.Error."""
    return Retired(*await fetch_row_async(connection, RETIRED))


async def retired_events(
    connection: psycopg.AsyncConnection[Any], masters: MasterKeys, position: Position, retired: Retired
) -> tuple[list[Event], Position]:
    """Returns the next run of events whose outcomes were retired, and the position after it.

    Raises as `with_events` does.
    """
    last = min(position.event_id + RUN, retired.event_id)
    stored = await events_between_async(connection, position.event_id, last)
    events = await read_with_texts_async(connection, masters, stored)
    outcome_id = retired.outcome_id if last == retired.event_id else position.outcome_id
    return events, replace(position, event_id=last, outcome_id=outcome_id)


def retired_record(event: Event, topics: Topics) -> Record:
    """Returns what is published for an event whose outcome was retired, so that its partition is not stored."""
    return topics.events, topics.partition_of(_key(event)), _key(event), event_message(event), CONTENT_TYPE


async def one_with_events(
    connection: psycopg.AsyncConnection[Any], masters: MasterKeys, outcome_id: int, event_id: int
) -> Decided:
    """Returns one outcome with its events. `event_id`: the last event before the outcome. Raises as `with_events`."""
    outcome = await outcome_numbered(connection, outcome_id)
    [decided] = await with_events(connection, masters, [outcome], event_id)
    return decided
