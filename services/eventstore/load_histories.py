"""All of history, order by order."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import Cursor
from psycopg.rows import DictRow, dict_row

from services.orders.events import Event
from services.orders.texts import WITH_TEXTS
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import load_keys
from services.sealing.seal import VERSION_2

from .event_codec import decode_row

_ORDERS_AT_ONCE = 1000
_WITH_TEXTS = [name for kind in WITH_TEXTS for name in (kind.__name__, kind.__name__ + VERSION_2)]


def histories(cursor: Cursor[DictRow], up_to: int) -> Iterator[dict[str, list[DictRow]]]:
    """Some orders at a time, in the order of their ids: by order, its rows of `order_events` up to a notification id,
    in their sequence. An order that has none by then is left out. Raises psycopg.Error.

    Between two, the cursor is free.
    """
    last = ""
    while True:
        cursor.execute(
            "SELECT DISTINCT originator_id FROM order_events WHERE originator_id > %s ORDER BY 1 LIMIT %s",
            (last, _ORDERS_AT_ONCE),
        )
        order_ids = [row["originator_id"] for row in cursor]
        if not order_ids:
            return
        last = order_ids[-1]
        cursor.execute(
            "SELECT originator_id, originator_version, topic, state, notification_id FROM order_events "
            "WHERE originator_id = ANY(%s) AND notification_id <= %s ORDER BY originator_id, originator_version",
            (order_ids, up_to),
            binary=True,
        )
        yield {order_id: list(rows) for order_id, rows in groupby(cursor.fetchall(), itemgetter("originator_id"))}


def events_with_texts(
    connection: psycopg.Connection[Any], masters: MasterKeys, order_ids: Collection[str]
) -> dict[str, list[Event]]:
    """By order, in their sequence, the events that have texts, as they read now.

    Raises MasterKeyError, MapperDeserialisationError and psycopg.Error.
    """
    found: defaultdict[str, list[Event]] = defaultdict(list)
    with connection.cursor(row_factory=dict_row, binary=True) as cursor:
        rows = cursor.execute(
            "SELECT originator_id, originator_version, topic, state FROM order_events "
            "WHERE originator_id = ANY(%s) AND topic = ANY(%s) ORDER BY originator_id, originator_version",
            (list(order_ids), _WITH_TEXTS),
        ).fetchall()
    keys = load_keys(connection, {row["originator_id"] for row in rows}, masters)
    for row in rows:
        found[row["originator_id"]].append(decode_row(row, keys))
    return found
