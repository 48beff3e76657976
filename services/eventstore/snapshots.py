"""Snapshots: stored states of long orders, so that loading an order does not read all its events.

Snapshots are derived data: any row may be lost. A snapshot with another `STATE_VERSION`, or that cannot be read as its
order's state, is ignored. A snapshot is of a version after which no dispute was open. An open dispute has texts, which
must be nowhere but in the sealed events (`docs/erasure.md`).
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg

from services.orders import Order

STATE_VERSION = "2"
"""Increase it when `evolve`, the fields of `Order` or their encoding change. Snapshots of another version are ignored.
A golden file notices such a change (`tests/contract/test_golden_states.py`)."""

SNAPSHOT_AFTER = 100
"""How many events after its snapshot an order gets the next one. Writing a snapshot pays off after some dozens of
events, with the first load that uses it. Most orders have ten or twenty events (`docs/performance.md`)."""

_AT_ONCE = 100
_encode = msgspec.json.Encoder().encode  # MessagePack cannot hold the largest amounts
_decode = msgspec.json.Decoder(Order).decode


def snapshot_version(order: Order) -> int:
    """Returns the order's last version after which no dispute was open."""
    return order.version if order.open_dispute is None else order.open_dispute.originator_version - 1


def encode_state(order: Order) -> bytes:
    """Encodes an order's state. Raises ValueError for an order with an open dispute, which has texts."""
    if order.open_dispute is not None:
        raise ValueError(f"order {order.id} has an open dispute, of which no snapshot may be made")
    return _encode(order)


def decode_state(order_id: str, version: int, state: bytes) -> Order | None:
    """Returns the state, or None if it cannot be read as the state of this order at this version."""
    try:
        order = _decode(state)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if (order.id, order.version, order.open_dispute) != (order_id, version, None):
        return None
    return order


def write_snapshots(connection: psycopg.Connection[Any], orders: Sequence[Order]) -> None:
    """Writes snapshots, in place of earlier ones. Raises ValueError as `encode_state` does, and psycopg.Error."""
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
