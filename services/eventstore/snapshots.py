"""Snapshots: states of long orders, to load them from instead of from their first event.

Derived data only: any row may be lost. One of another version, or that does not read as its order's, is not used.
A snapshot is of a version after which no dispute is open, since an open one has texts, and texts lie sealed in the
events and nowhere else (`docs/erasure.md`).
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg

from services.orders import Order

STATE_VERSION = "1"
"""Raised with every change of what an order's events make of it, or of how a state is written; snapshots of another
version are not read. A golden file holds it (`tests/contract/test_golden_states.py`)."""

SNAPSHOT_AFTER = 100
"""How many events behind its snapshot an order is given the next one. Writing one pays from some dozens of events on,
with the first load that uses it; most orders have ten or twenty in all and need none (`docs/performance.md`)."""

_AT_ONCE = 100
_encode = msgspec.json.Encoder().encode  # and not MessagePack, which has no room for the largest amounts
_decode = msgspec.json.Decoder(Order).decode


def snapshot_version(order: Order) -> int:
    """The order's last version after which no dispute was open."""
    return order.version if order.open_dispute is None else order.open_dispute.originator_version - 1


def encode_state(order: Order) -> bytes:
    """Raises ValueError for an order with an open dispute: it has texts."""
    if order.open_dispute is not None:
        raise ValueError(f"order {order.id} has an open dispute, of which no snapshot may be made")
    return _encode(order)


def decode_state(order_id: str, version: int, state: bytes) -> Order | None:
    """None for what is not the state of this order at this version."""
    try:
        order = _decode(state)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if (order.id, order.version, order.open_dispute) != (order_id, version, None):
        return None
    return order


def write_snapshots(connection: psycopg.Connection[Any], orders: Sequence[Order]) -> None:
    """Puts these in the place of their earlier ones. Raises ValueError as `encode_state` does, and psycopg.Error."""
    for first in range(0, len(orders), _AT_ONCE):
        some = orders[first : first + _AT_ONCE]
        connection.execute(
            "INSERT INTO order_snapshots (order_id, version, code, state) "
            "SELECT order_id, version, %s, state FROM unnest(%s::text[], %s::bigint[], %s::bytea[]) "
            "AS new (order_id, version, state) "
            "ON CONFLICT (order_id) DO UPDATE SET version = excluded.version, code = excluded.code, "
            "state = excluded.state",
            (
                STATE_VERSION,
                [order.id for order in some],
                [order.version for order in some],
                [encode_state(order) for order in some],
            ),
        )
