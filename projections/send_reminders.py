"""Sends the reminders that are due: each once, and none for a dispute that is settled.

The read model `reminders` has the reminders that are due. A sent reminder becomes a row of `notifications`, which the
relay publishes. That table remembers every reminder that was ever sent, even if the read model is rebuilt.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg
from psycopg.rows import namedtuple_row
from resolution_contracts import topics
from resolution_contracts.notifications import DisputeReminder, DisputeReminderV2
from resolution_contracts.values import format_instant

from services.clock import Clock
from services.eventstore.database import ANSWER_WITHIN_SECONDS, connect, fetch_value, lock_appends
from services.orders.reminders import NAMES
from services.telemetry import role_metrics
from services.telemetry.health import progress

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0
_LOOK_OFTEN_SECONDS = 0.05  # if business time runs faster than real time
_BATCH = 1000


class ReminderSender:
    """Sends due reminders for ever."""

    def __init__(self, database_url: str, clock: Clock) -> None:
        self._url = database_url
        self._clock = clock

    async def run(self) -> None:
        """Sends due reminders every second. Tries again if the database does not answer."""
        pause = _LOOK_EVERY_SECONDS if self._clock.scale == 1 else _LOOK_OFTEN_SECONDS
        while True:
            progress("reminders")
            try:
                while await asyncio.to_thread(send_due, self._url, self._clock.now()) == _BATCH:
                    pass
            except psycopg.Error as error:
                log.warning("reminders cannot be sent, trying again: %s", error)
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
            await asyncio.sleep(pause)


def send_due(database_url: str, now: datetime) -> int:
    """Stores the reminders that are due at the business time `now` for the relay. Returns how many were due.

    If an order has events that the read model lacks, its reminders wait, because the dispute may be settled. Raises
    psycopg.Error.
    """
    with connect(database_url, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        if fetch_value(connection, "SELECT 1 FROM reminders.due WHERE at <= %s LIMIT 1", (now,)) is None:
            return 0
        if (position := _hold(connection)) is None:
            return 0
        # Nobody appends events from here to the commit, so no dispute can be settled meanwhile.
        lock_appends(connection)
        due = _take(connection, now, position)
        sent = _store(connection, _to_send(due, now), now)
    role_metrics.reminded(sent)
    return len(due)


def _hold(connection: psycopg.Connection[Any]) -> int | None:
    """Locks and returns the read model's position, so that nobody changes or switches its tables until the commit.

    Call this before `lock_appends`, because this may wait for a batch or for a switch. Returns None after a switch,
    because this statement does not see the new position yet.
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
        (now, _BATCH, position),
    ).fetchall()


def _to_send(due: Sequence[Any], now: datetime) -> list[Any]:
    """Returns the last reminder of each dispute whose deadline has not passed.

    After an outage both reminders of a dispute may be due at once, and nobody needs two.
    """
    last: dict[tuple[str, str], Any] = {}
    for row in sorted(due, key=lambda row: row.hours, reverse=True):
        if row.respond_by > now:
            last[row.order_id, row.dispute_id] = row
    return list(last.values())


def _store(connection: psycopg.Connection[Any], rows: Sequence[Any], now: datetime) -> int:
    """Stores reminders in `notifications`. Returns how many of them are new."""
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
    facts = {name: getattr(row, name) for name in ("dispute_id", "kind", "recipient", "role", "respond_by")}
    before, reminder = row.respond_by - row.at, NAMES[row.hours]
    data: DisputeReminder | DisputeReminderV2
    if before == timedelta(hours=row.hours):  # as before there were terms
        version, name, data = 1, f"{row.hours}h", DisputeReminder(**facts, hours_before=row.hours)
    else:
        seconds = before // timedelta(seconds=1)
        version, name, data = 2, reminder, DisputeReminderV2(**facts, reminder=reminder, seconds_before=seconds)
    envelope = {
        "specversion": "1.0",
        "id": f"{row.order_id}:{row.dispute_id}:{name}",
        "type": topics.notification_type("DisputeReminder", version),
        "source": topics.SOURCE,
        "subject": row.order_id,
        "time": format_instant(now),
        "data": data.model_dump(mode="json"),
    }
    return msgspec.json.encode(envelope)
