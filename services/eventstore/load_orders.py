"""Loads orders, many at once: each from its snapshot, if it has one, and the events behind that."""

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

# A snapshot comes as a row without a topic, then its own last event, which has to be there, and those behind it. All in
# one statement: a second one would be felt by every command on an order that is not in the cache.
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
    """The order as its snapshot has it, or blank."""
    events: Sequence[Stored]
    """All events after that."""

    def load(self, keys: OrderKeys, after: int) -> tuple[Order, Order | None]:
        """Returns the order, and the state to snapshot, or None if no snapshot is due.

        One is due when more than `after` events follow the last. Both may be the same object. Raises whatever this
        version fails with on an event.
        """
        events = [decode_event(event, keys) for event in self.events]
        order = evolved(self.start, events)
        behind = snapshot_version(order) - self.start.version
        if behind <= after:
            return order, None
        return order, order if order.open_dispute is None else evolved(self.start, events[:behind])


class Loaded(msgspec.Struct):
    """Orders, and the states to snapshot."""

    orders: dict[str, Order | Exception]
    """By id. An exception says why an order's history cannot be read or followed."""
    due: list[Order] = []
    """What to make snapshots of. Some are the orders themselves, and change with them."""


def load_orders(
    connection: psycopg.Connection[Any], masters: MasterKeys, order_ids: Collection[str], *, snapshots: bool = True
) -> Loaded:
    """Also those that nobody registered. `snapshots`: whether they are used.

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
        except Exception as failure:  # a bug of ours, or a later version's event: this order's trouble alone
            loaded.orders[order_id] = failure
        else:
            loaded.due += [] if due is None else [due]
    return loaded


def _histories(connection: psycopg.Connection[Any], order_ids: Collection[str], version: str | None) -> list[History]:
    """Those that nobody registered are left out. `version`: of the snapshots that are used."""
    with connection.cursor(row_factory=dict_row, binary=True) as cursor:
        rows = cursor.execute(_SELECT, (list(set(order_ids)), version), prepare=True).fetchall()
    found, unusable = [], []
    for order_id, group in groupby(rows, itemgetter("order_id")):
        if (history := _history(order_id, list(group))) is not None:
            found.append(history)
        else:
            log.warning("the snapshot of order %s cannot be used", order_id, extra={"order_id": order_id})
            unusable.append(order_id)
    return found + (_histories(connection, unusable, None) if unusable else [])


def _history(order_id: str, rows: Sequence[DictRow]) -> History | None:
    """None where a snapshot cannot be read, or its last event is not there."""
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
