"""Parked orders: a command on which our own code failed, and those behind it, wait for an operator.

Nobody else does: the partition goes on, and the other orders with it.
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
    """The orders that were parked as of a version of the table `parking`."""

    version: int
    orders: set[str]


class ParkingChanged(Exception):
    """An order was parked or set free since the version that a batch was judged with. Nothing was written."""


def read_parking(connection: psycopg.Connection[Any]) -> Parking:
    """Raises psycopg.Error."""
    version, orders = fetch_row(
        connection, "SELECT version, ARRAY(SELECT DISTINCT order_id FROM parked_commands) FROM parking"
    )
    return Parking(version, set(orders))


def parked_orders(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Each parked order, the one that has waited longest first: `order_id`, `commands` (how many), `since`, `why`."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT order_id, count(*) AS commands, min(parked_at) AS since, max(why) AS why FROM parked_commands "
            "GROUP BY order_id ORDER BY since, order_id"
        )
        return cursor.fetchall()


def parked_commands(connection: psycopg.Connection[Any], order_id: str) -> list[ParkedCommand]:
    """An order's, in the order of the log; the first one is that which failed. Raises psycopg.Error."""
    with connection.cursor(row_factory=class_row(ParkedCommand)) as cursor:
        cursor.execute(
            "SELECT partition, record_offset, order_id, command_id, record_time, key, value, headers, why "
            "FROM parked_commands WHERE order_id = %s ORDER BY partition, record_offset",
            (order_id,),
        )
        return cursor.fetchall()


def change_parking(cursor: Cursor[Any], parked: Sequence[ParkedCommand], freed: Sequence[tuple[int, int]]) -> None:
    """Parks commands, and frees those at a partition and offset, within the caller's transaction."""
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
        # A database that falls back to before this must not come to the same version by another way: roles remember
        # orders as the freed commands left them, and nothing else would tell that these were parked again.
        cursor.execute("UPDATE parking SET version = version + 2 + floor(random() * 1e12)::bigint")
    elif any(command.why for command in parked):
        cursor.execute("UPDATE parking SET version = version + 1")
