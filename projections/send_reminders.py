"""Sends the reminders that are due: each once, and none for a dispute that is settled.

What is due is in the read model `reminders`. A reminder becomes a row of `notifications`, which the relay publishes;
that table remembers what was ever sent, whatever is built anew.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg.rows import namedtuple_row
from resolution_contracts import topics
from resolution_contracts.notifications import DisputeReminder
from resolution_contracts.values import format_instant

from services.clock import Clock
from services.eventstore.database import ANSWER_WITHIN_SECONDS, connect, fetch_value, lock_appends
from services.telemetry import role_metrics
from services.telemetry.health import progress

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0
_LOOK_OFTEN_SECONDS = 0.05  # where business time runs faster
_MOST = 1000


class ReminderSender:
    """Looks from time to time, for ever."""

    def __init__(self, database_url: str, clock: Clock) -> None:
        self._url = database_url
        self._clock = clock

    async def run(self) -> None:
        """Does not give up while the database is away."""
        pause = _LOOK_EVERY_SECONDS if self._clock.scale == 1 else _LOOK_OFTEN_SECONDS
        while True:
            progress("reminders")
            try:
                while await asyncio.to_thread(send_due, self._url, self._clock.now()) == _MOST:
                    pass
            except psycopg.Error as error:
                log.warning("reminders cannot be sent, trying again: %s", error)
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
            await asyncio.sleep(pause)


def send_due(database_url: str, now: datetime) -> int:
    """Hands what is due at the business time `now` to the relay; returns how many reminders that were.

    One of an order that has events which the read model lacks waits: its dispute may be settled. Raises psycopg.Error.
    """
    with connect(database_url, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        if fetch_value(connection, "SELECT 1 FROM reminders.due WHERE at <= %s LIMIT 1", (now,)) is None:
            return 0
        if (position := _hold(connection)) is None:
            return 0
        # From here to the commit nothing is appended, so that what the read model says of a dispute is so.
        lock_appends(connection)
        due = _take(connection, now, position)
        sent = _put(connection, _to_send(due, now), now)
    role_metrics.reminded(sent)
    return len(due)


def _hold(connection: psycopg.Connection[Any]) -> int | None:
    """The read model's position. Nothing changes its rows, or switches its tables, until the transaction ends.

    To be held before appends are held up, for a batch or a switch under way is waited for. None behind a switch, whose
    position this statement does not see yet.
    """
    position: int | None = fetch_value(
        connection, "SELECT notification_id FROM projection_tracking WHERE application_name = 'reminders' FOR SHARE"
    )
    return position


def _take(connection: psycopg.Connection[Any], now: datetime, position: int) -> list[Any]:
    cursor = connection.cursor(row_factory=namedtuple_row)
    return cursor.execute(
        "WITH next AS (SELECT order_id, dispute_id, hours FROM reminders.due WHERE at <= %s ORDER BY at LIMIT %s) "
        "DELETE FROM reminders.due USING next WHERE (due.order_id, due.dispute_id, due.hours) = "
        "(next.order_id, next.dispute_id, next.hours) AND due.order_id NOT IN (SELECT originator_id FROM order_events "
        "WHERE originator_id = ANY(ARRAY(SELECT order_id FROM next)) AND notification_id > %s) RETURNING due.*",
        (now, _MOST, position),
    ).fetchall()


def _to_send(due: Sequence[Any], now: datetime) -> list[Any]:
    """The last one of each dispute that is not over: nobody needs two at once after a time without service."""
    last: dict[tuple[str, str], Any] = {}
    for row in sorted(due, key=lambda row: row.hours, reverse=True):
        if row.respond_by > now:
            last[row.order_id, row.dispute_id] = row
    return list(last.values())


def _put(connection: psycopg.Connection[Any], rows: Sequence[Any], now: datetime) -> int:
    """Returns how many were not there yet."""
    if not rows:
        return 0
    columns = [(row.order_id, row.dispute_id, row.hours, _message(row, now)) for row in rows]
    added = connection.execute(
        "INSERT INTO notifications (notification_id, order_id, dispute_id, hours, message) "
        "SELECT greatest(0, (SELECT max(notification_id) FROM notifications), "
        "(SELECT max(notification_id) FROM splits)) + row_number() OVER (), new.* "
        "FROM unnest(%s::text[], %s::text[], %s::int[], %s::bytea[]) AS new "
        "ON CONFLICT (order_id, dispute_id, hours) DO NOTHING",
        [list(column) for column in zip(*columns, strict=True)],
    )
    connection.execute("SELECT pg_notify('order_events', '')")
    return added.rowcount


def _message(row: Any, now: datetime) -> bytes:
    reminder = DisputeReminder(
        dispute_id=row.dispute_id,
        kind=row.kind,
        recipient=row.recipient,
        role=row.role,
        respond_by=row.respond_by,
        hours_before=row.hours,
    )
    envelope = {
        "specversion": "1.0",
        "id": f"{row.order_id}:{row.dispute_id}:{row.hours}h",
        "type": topics.notification_type("DisputeReminder"),
        "source": topics.SOURCE,
        "subject": row.order_id,
        "time": format_instant(now),
        "data": reminder.model_dump(mode="json"),
    }
    return msgspec.json.encode(envelope)
