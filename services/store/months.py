"""The months of `outcomes`: each has a table of its own, and old ones are retired whole.

An index of each month keeps a command id from being used twice in it. A command id of an earlier month is looked up,
for the orders that have one: those that began before the month did. Of retired months the events are left, and each
tells the command that it follows from: what changed an order is recognised for ever.
"""

from collections.abc import Collection
from datetime import date
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row


class MonthBegan(Exception):
    """A batch was judged for another month than the one that its outcomes belong in. Nothing was written."""


class Months(msgspec.Struct, frozen=True):
    """The newest month (its first day, UTC), and whether there were any before it."""

    newest: date
    others: bool


class Retired(msgspec.Struct, frozen=True):
    """The last outcome that was retired, and the last event before its end; 0 where none was."""

    outcome_id: int = 0
    event_id: int = 0


RETIRED = "SELECT coalesce(max(last_outcome_id), 0), coalesce(max(last_event_id), 0) FROM outcome_months"
"""SQL: the fields of `Retired`."""


def begun_months(connection: psycopg.Connection[Any]) -> Months:
    """What is appended from now on belongs in the newest, which is begun where it was not there yet.

    To be committed. Raises psycopg.Error.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT append_month()")
        row = cursor.execute("SELECT max(month), count(*) > 1 FROM outcome_months").fetchone()
    assert row is not None
    return Months(*row)


def read_retired(connection: psycopg.Connection[Any]) -> Retired:
    """Raises psycopg.Error."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(RETIRED).fetchone()
    assert row is not None
    return Retired(*row)


def with_earlier_commands(connection: psycopg.Connection[Any], order_ids: Collection[str], month: date) -> set[str]:
    """Which of these orders have commands that were judged before `month`. Raises psycopg.Error."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT order_id FROM unnest(%s::text[]) AS asked (order_id) WHERE EXISTS (SELECT FROM outcomes AS o "
            "WHERE o.order_id = asked.order_id AND kind IN ('accepted', 'rejected') AND month < %s) "
            "OR EXISTS (SELECT FROM order_events WHERE originator_id = order_id AND originator_version = 1 "
            "AND notification_id <= retired_event_id())",
            (list(order_ids), month),
            prepare=True,
        )
        return {order_id for (order_id,) in cursor}


FIRST_USES = (
    "WITH asked AS (SELECT * FROM unnest(%s::text[], %s::text[]) AS asked (order_id, command_id)) "
    "SELECT o.order_id, o.command_id, o.digest, o.message FROM asked JOIN outcomes AS o USING (order_id, command_id) "
    "WHERE o.kind IN ('accepted', 'rejected') "
    "UNION ALL SELECT order_id, command_id, ''::bytea, ''::bytea FROM asked JOIN order_events ON "
    "originator_id = order_id AND notification_id <= retired_event_id() "
    "AND convert_from(state, 'UTF8')::json ->> 'command_id' = command_id"
)
"""SQL: of order ids and command ids, those that were used before, with the digest and the outcome of the first time.

Both are empty for one whose outcome was retired.
"""
