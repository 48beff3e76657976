"""An order's history, and its state after each event. For auditors: confidential fields are shown (D16)."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast

import msgspec
from resolution_contracts.values import format_instant

from services.orders import Order, evolve
from services.orders.events import Event
from services.store import OrderStore


def replay(
    store: OrderStore, order_id: str, *, as_of: datetime | None = None, at: int | None = None
) -> Iterator[dict[str, Any]]:
    """Each event with the state after it, oldest first; up to event number `at` or the business time `as_of`.

    Yields nothing for an order that nobody registered. Raises the library's MapperDeserialisationError for an event
    that this version cannot read, ValueError for a gap in the history.
    """
    order = Order(id=order_id)
    for event in store.events.get(order_id, lte=at):
        event = cast("Event", event)
        if as_of is not None and event.timestamp > as_of:
            return
        evolve.evolve(order, event)
        yield {
            "sequence": event.originator_version,
            "event": type(event).__name__,
            "time": format_instant(event.timestamp),
            "command_id": event.command_id,
            "data": _data(event),
            "state": _state(order),
        }


def _data(event: Event) -> dict[str, Any]:
    known = {"order_id", "sequence", "time", "command_id"}
    return {name: value for name, value in msgspec.to_builtins(event).items() if name not in known}


def _state(order: Order) -> dict[str, Any]:
    dispute = order.open_dispute
    return {
        "status": order.status,
        "expected_delivery_at": order.expected_delivery_at and format_instant(order.expected_delivery_at),
        "open_dispute": dispute
        and {
            "dispute_id": dispute.dispute_id,
            "kind": dispute.kind,
            "opened_by": dispute.opened_by,
            "respond_by": format_instant(dispute.respond_by),
        },
        "settled_disputes": {dispute_id: settled.settled_as for dispute_id, settled in order.settled.items()},
        "refund": order.refund
        and {
            "refund_id": order.refund.refund_id,
            "amount": msgspec.to_builtins(order.refund.amount),
            "processed": order.refund_processed,
        },
    }
