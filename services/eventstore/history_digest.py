"""Tells a history from another one: a store that was restored, or fell back, has other events at the same positions."""

import hashlib
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

_EVENTS = 1_000


def digest_of_last_events(connection: psycopg.Connection[Any], up_to: int) -> str:
    """Of which events the store has at the last thousand positions up to this notification id. Raises psycopg.Error."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT notification_id, originator_id, originator_version, topic FROM order_events "
            "WHERE notification_id > %s AND notification_id <= %s ORDER BY notification_id",
            (up_to - _EVENTS, up_to),
        )
        return hashlib.sha256(msgspec.json.encode(cursor.fetchall())).hexdigest()
