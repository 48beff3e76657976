"""Parked orders: a command on which our own code failed, and the order's later commands, wait for an operator.

All other orders of the partition go on.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import Cursor
from psycopg.rows import class_row, dict_row

from services.judging.outcomes import ParkedCommand

from .database import fetch_row


class Parking(msgspec.Struct):
    """The orders that are parked, and the version of the table `parking`, which changes with them."""

    version: int
    orders: set[str]


class ParkingChanged(Exception):
    """Orders were parked or freed after the batch was judged. Nothing was written."""


def read_parking(connection: psycopg.Connection[Any]) -> Parking:
    """Returns the orders that are parked now. Raises psycopg.Error."""
    version, orders = fetch_row(
        connection, "SELECT version, ARRAY(SELECT DISTINCT order_id FROM parked_commands) FROM parking"
    )
    return Parking(version, set(orders))


def parked_orders(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Returns `order_id`, `commands` (how many), `since` and `why` of each parked order, longest parked first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT order_id, count(*) AS commands, min(parked_at) AS since, max(why) AS why FROM parked_commands "
            "GROUP BY order_id ORDER BY since, order_id"
        )
        return cursor.fetchall()


def parked_since(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Returns the timestamp of each parked order's first parked command, in milliseconds. Raises psycopg.Error."""
    rows = connection.execute("SELECT order_id, min(record_time) FROM parked_commands GROUP BY order_id")
    return dict(rows.fetchall())


def parked_commands(connection: psycopg.Connection[Any], order_id: str) -> list[ParkedCommand]:
    """Returns an order's parked commands, in the order of their records. Raises psycopg.Error.

    The first one is the command on which our code failed.
    """
    with connection.cursor(row_factory=class_row(ParkedCommand)) as cursor:
        cursor.execute(
            "SELECT partition, record_offset, order_id, command_id, record_time, key, value, headers, why "
            "FROM parked_commands WHERE order_id = %s ORDER BY partition, record_offset",
            (order_id,),
        )
        return cursor.fetchall()


def change_parking(cursor: Cursor[Any], parked: Sequence[ParkedCommand], freed: Sequence[tuple[int, int]]) -> None:
    """Parks commands, and frees those with these partitions and offsets, in the caller's transaction."""
    if freed:
        cursor.executemany("DELETE FROM parked_commands WHERE partition = %s AND record_offset = %s", freed)
    if parked:
        cursor.executemany(
            "INSERT INTO parked_commands "
            "(partition, record_offset, order_id, command_id, record_time, key, value, headers, why) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (partition, record_offset) DO UPDATE SET why = excluded.why",
            [msgspec.structs.astuple(command) for command in parked],
        )
    if freed:
        # Roles have these orders in their caches, as the freed commands left them. If the database is restored to an
        # earlier state, it must not reach the same version again: the roles would not notice that it was restored.
        cursor.execute("UPDATE parking SET version = version + 2 + floor(random() * 1e12)::bigint")
    elif any(command.why for command in parked):
        cursor.execute("UPDATE parking SET version = version + 1")
