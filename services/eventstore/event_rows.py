"""Stored events as PostgreSQL copies them out: the bytes that checkpoints are made from."""

from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.sql import SQL, Literal

from .binary_copy import Row, copied_rows

_NUMBER = 4 + 8
"""The bytes of the last column, length and value."""


def event_rows(connection: psycopg.Connection[Any], first: int, last: int) -> Generator[Row]:
    """The events with these notification ids, both included, in their order. Raises psycopg.Error.

    The columns are originator_id, originator_version, topic, state and, last, notification_id.
    The connection is busy until the last one was taken, or the generator is closed.
    """
    query = SQL(
        "COPY (SELECT originator_id, originator_version, topic, state, notification_id FROM order_events "
        "WHERE notification_id BETWEEN {} AND {} ORDER BY notification_id) TO STDOUT (FORMAT BINARY)"
    ).format(Literal(first), Literal(last))
    return copied_rows(connection, query)


def notification_id(row: Row) -> int:
    """The event number of a row, which is its last column."""
    return int.from_bytes(row[-8:], "big", signed=True)


def without_notification_id(row: Row) -> Row:
    """The row without its last column, the event number."""
    return row[:-_NUMBER]


def newest_event(connection: psycopg.Connection[Any]) -> int:
    """The last notification id that was given; 0 in an empty store. Raises psycopg.Error."""
    row = connection.execute(
        "SELECT greatest(0, (SELECT max(notification_id) FROM order_events), (SELECT max(event_id) FROM splits))"
    ).fetchone()
    assert row is not None
    return int(row[0])
