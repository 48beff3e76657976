"""All of history, order by order."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

from psycopg import Cursor
from psycopg.rows import DictRow

_ORDERS_AT_ONCE = 1000


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
