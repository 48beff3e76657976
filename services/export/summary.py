"""Summarizes an order in one row for analysts."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from services.orders import Order
from services.orders import events as e
from services.orders.evolve import evolve
from services.orders.state import Status


class Summary(msgspec.Struct):
    """One order. Times are business times in UTC. Amounts are in minor units of `currency`."""

    order_id: str
    status: str = Status.UNKNOWN
    client_id: str | None = None
    freelancer_id: str | None = None
    currency: str | None = None
    price_amount: int | None = None
    registered_at: datetime | None = None
    expected_delivery_at: datetime | None = None
    completed_at: datetime | None = None
    canceled_at: datetime | None = None
    cancellation_grounds: str | None = None
    affects_metrics: bool | None = None
    disputes: int = 0
    accepted: int = 0
    declined: int = 0
    withdrawn: int = 0
    auto_accepted: int = 0
    closed: int = 0
    open_dispute: str | None = None
    refund_amount: int | None = None
    refund_granted_at: datetime | None = None
    refund_processed_at: datetime | None = None
    events: int = 0
    last_event_at: datetime | None = None


def summarize(order_id: str, history: Iterable[e.Event]) -> Summary:
    """Makes an order's row from all its events, oldest first."""
    order, row = Order(id=order_id), Summary(order_id)
    for event in history:
        evolve(order, event)
        _count(row, event)
    if order.registered is not None:
        row.client_id, row.freelancer_id = order.registered.client_id, order.registered.freelancer_id
        row.price_amount, row.currency = order.registered.price.amount, order.registered.price.currency
        row.registered_at = order.registered.timestamp
    row.status = order.status
    row.expected_delivery_at = order.expected_delivery_at
    if order.open_dispute is not None:
        row.open_dispute = order.open_dispute.kind
    if order.refund is not None:
        row.refund_amount, row.refund_granted_at = order.refund.amount.amount, order.refund.timestamp
    row.events, row.last_event_at = order.version, order.last_event_at
    return row


def _count(row: Summary, event: e.Event) -> None:
    """Counts what the order's state does not contain."""
    match event:
        case e.DisputeOpened():
            row.disputes += 1
        case e.Accepted():
            row.accepted += 1
        case e.Declined():
            row.declined += 1
        case e.Withdrawn():
            row.withdrawn += 1
        case e.AutoAccepted():
            row.auto_accepted += 1
        case e.DisputeClosed():
            row.closed += 1
        case e.OrderCompleted():
            row.completed_at = event.timestamp
        case e.OrderCanceled():
            row.canceled_at = event.timestamp
            row.cancellation_grounds, row.affects_metrics = event.grounds, event.affects_metrics
        case e.RefundProcessed():
            row.refund_processed_at = event.timestamp
