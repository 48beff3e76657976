"""The months of `outcomes`: each has a table of its own, and old ones are retired whole.

An index of each month keeps a command id from being used twice in it. A command id of an earlier month is looked up,
for the orders that have one: those that began before the month did. Of retired months the events are left, and each
tells the command that it follows from: what changed an order is recognised for ever.
"""

from collections.abc import Collection
from datetime import date
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.rows import tuple_row

from services.eventstore.database import fetch_row, fetch_value


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
    fetch_value(connection, "SELECT append_month()")
    return Months(*fetch_row(connection, "SELECT max(month), count(*) > 1 FROM outcome_months"))


def read_retired(connection: psycopg.Connection[Any]) -> Retired:
    """Raises psycopg.Error."""
    return Retired(*fetch_row(connection, RETIRED))


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


def with_ids_in_capitals(connection: psycopg.Connection[Any], order_ids: Collection[str]) -> set[str]:
    """Which of these orders have commands whose ids have capital letters. Raises psycopg.Error."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT DISTINCT order_id FROM outcomes WHERE order_id = ANY(%s) AND kind IN ('accepted', 'rejected') "
            "AND command_id <> lower(command_id)",
            (list(order_ids),),
            prepare=True,
        )
        return {order_id for (order_id,) in cursor}


FIRST_USES_NOT_RETIRED: LiteralString = (
    "WITH asked AS (SELECT * FROM unnest(%s::text[], %s::text[]) AS asked (order_id, command_id)), "
    "used AS (SELECT o.* FROM asked JOIN outcomes AS o USING (order_id, command_id) "
    "WHERE o.kind IN ('accepted', 'rejected') "
    "UNION ALL SELECT o.* FROM asked JOIN outcomes AS o ON o.order_id = asked.order_id "
    "AND lower(o.command_id) = asked.command_id AND o.command_id <> lower(o.command_id) "
    "WHERE o.kind IN ('accepted', 'rejected')) SELECT order_id, command_id, digest, message FROM used "
)
"""SQL: of order ids and command ids, those that were used before, with the digest and the outcome of the first time.

Each id is to be asked for as it is, and in small letters: then it is found however it was written.
"""

FIRST_USES: LiteralString = (
    FIRST_USES_NOT_RETIRED  # noqa: S608 - nothing of a sender's
    + "UNION ALL SELECT order_id, command_id, ''::bytea, ''::bytea FROM asked JOIN order_events "
    "ON originator_id = order_id AND notification_id <= retired_event_id() "
    "AND lower(convert_from(state, 'UTF8')::json ->> 'command_id') = lower(command_id)"
)
"""SQL: the same, and those whose outcome was retired, with neither digest nor outcome."""
