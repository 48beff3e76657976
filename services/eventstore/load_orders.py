"""Loads many orders at once: each from its snapshot, if it has one, and the events after it."""

import logging
from collections.abc import Collection, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec
import psycopg
from psycopg.rows import DictRow, dict_row

from services.orders import Order
from services.orders.evolve import evolved
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import OrderKeys, load_keys

from .event_codec import Stored, StoredRow, decode_event, sealed_orders
from .snapshots import SNAPSHOT_AFTER, STATE_VERSION, decode_state, snapshot_version

log = logging.getLogger(__name__)

# For each order: its snapshot as a row without a topic, the snapshot's last event, which must exist, and later events.
# One statement, because a second one would slow down every command on an order that is not in the cache.
_SELECT = (
    "WITH asked AS (SELECT order_id, version, s.state FROM unnest(%s::text[]) AS a (order_id) "
    "LEFT JOIN (SELECT * FROM order_snapshots WHERE code = %s::text) AS s USING (order_id)) "
    "SELECT order_id, version, NULL AS topic, state FROM asked WHERE version IS NOT NULL "
    "UNION ALL SELECT order_id, e.originator_version, e.topic, e.state FROM asked JOIN order_events AS e "
    "ON e.originator_id = order_id AND e.originator_version >= coalesce(version, 1) ORDER BY 1, 2, 3 NULLS FIRST"
)


class History(msgspec.Struct):
    """What an order is loaded from."""

    start: Order
    """The order in the state of its snapshot, or without any event."""
    events: Sequence[Stored]
    """All events after that."""

    def load(self, keys: OrderKeys, after: int) -> tuple[Order, Order | None]:
        """Returns the order, and the state to snapshot, or None if no snapshot is due.

        A snapshot is due if more than `after` events follow the last one. Both results may be the same object. Raises
        any exception if this version cannot read or apply an event.
        """
        events = [decode_event(event, keys) for event in self.events]
        order = evolved(self.start, events)
        new_events = snapshot_version(order) - self.start.version
        if new_events <= after:
            return order, None
        return order, order if order.open_dispute is None else evolved(self.start, events[:new_events])


class Loaded(msgspec.Struct):
    """Orders, and the states to snapshot."""

    orders: dict[str, Order | Exception]
    """The orders by id. For an order that cannot be loaded: the exception."""
    due: list[Order] = []
    """The states to snapshot. Some are the same objects as in `orders`: write them before you change the orders."""


def load_orders(
    connection: psycopg.Connection[Any], masters: MasterKeys, order_ids: Collection[str], *, snapshots: bool = True
) -> Loaded:
    """Loads orders, including those that nobody registered. `snapshots`: whether to use snapshots.

    Raises MasterKeyError and psycopg.Error.
    """
    loaded = Loaded({order_id: Order(id=order_id) for order_id in order_ids})
    histories = _histories(connection, order_ids, STATE_VERSION if snapshots else None)
    sealed = {history.start.id for history in histories if sealed_orders(history.events)}
    keys = load_keys(connection, sealed, masters)
    for history in histories:
        order_id = history.start.id
        try:
            loaded.orders[order_id], due = history.load(keys, SNAPSHOT_AFTER)
        except Exception as failure:  # a bug of ours, or a later version's event: the other orders are not affected
            loaded.orders[order_id] = failure
        else:
            loaded.due += [] if due is None else [due]
    return loaded


def _histories(connection: psycopg.Connection[Any], order_ids: Collection[str], version: str | None) -> list[History]:
    """Returns the histories of the orders that were registered.

    `version` is the state version that snapshots must have. None uses no snapshots.
    """
    with connection.cursor(row_factory=dict_row, binary=True) as cursor:
        rows = cursor.execute(_SELECT, (list(set(order_ids)), version), prepare=True).fetchall()
    histories, unusable = [], []
    for order_id, group in groupby(rows, itemgetter("order_id")):
        if (history := _history(order_id, list(group))) is not None:
            histories.append(history)
        else:
            log.warning("the snapshot of order %s cannot be used", order_id, extra={"order_id": order_id})
            unusable.append(order_id)
    return histories + (_histories(connection, unusable, None) if unusable else [])


def _history(order_id: str, rows: Sequence[DictRow]) -> History | None:
    """Returns an order's history, or None if its snapshot cannot be read or the snapshot's last event is missing."""
    first, rest = rows[0], rows[1:]
    if first["topic"] is not None:
        return History(Order(id=order_id), [_stored(row) for row in rows])
    if not rest or rest[0]["version"] != first["version"]:
        return None
    if (start := decode_state(order_id, first["version"], first["state"])) is None:
        return None
    return History(start, [_stored(row) for row in rest[1:]])


def _stored(row: DictRow) -> StoredRow:
    return StoredRow(row["order_id"], row["version"], row["topic"], row["state"])
