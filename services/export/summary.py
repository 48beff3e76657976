"""Makes the summary of an order: one row for analysts."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from services.orders import Order
from services.orders import events as e
from services.orders.evolve import evolve
from services.orders.policy import HELP_PAGE, Terms
from services.orders.state import Status


class Summary(msgspec.Struct):
    """One order. Times are business times in UTC. Amounts are in minor units of `currency`.

    A field is None if the order has no such value, or not yet.
    """

    order_id: str
    """The order's id."""
    status: str = Status.UNKNOWN
    """The order's status after its last event."""
    client_id: str | None = None
    """The user id of the client."""
    freelancer_id: str | None = None
    """The user id of the freelancer."""
    currency: str | None = None
    """The currency's code."""
    price_amount: int | None = None
    """The original price."""
    registered_at: datetime | None = None
    """When the order was registered."""
    expected_delivery_at: datetime | None = None
    """The delivery date, with all extensions."""
    completed_at: datetime | None = None
    """When the order was completed."""
    canceled_at: datetime | None = None
    """When the order was canceled."""
    cancellation_grounds: str | None = None
    """Why the order was canceled."""
    affects_metrics: bool | None = None
    """Whether the cancellation counts against the freelancer's metrics (D15)."""
    disputes: int = 0
    """How many disputes were opened."""
    accepted: int = 0
    """How many disputes the other party accepted."""
    declined: int = 0
    """How many disputes the other party declined."""
    withdrawn: int = 0
    """How many disputes the requester withdrew."""
    auto_accepted: int = 0
    """How many disputes were accepted automatically."""
    closed: int = 0
    """How many disputes a delivery, a completion or a cancellation of the order closed (D11)."""
    open_dispute: str | None = None
    """The kind of the open dispute."""
    refund_amount: int | None = None
    """The amount of the granted refund."""
    refund_granted_at: datetime | None = None
    """When the refund was granted."""
    refund_processed_at: datetime | None = None
    """When the refund was paid."""
    events: int = 0
    """How many events the order has."""
    last_event_at: datetime | None = None
    """When the last event happened."""
    terms_response_hours: int = HELP_PAGE.response_hours
    """How long the other party has to answer a request (D20)."""
    terms_very_late_after_hours: int = HELP_PAGE.very_late_after_hours
    """How long after its delivery date the order is very late."""
    terms_longest_extension_days: int = HELP_PAGE.longest_extension_days
    """The longest delivery extension of one request."""
    terms_largest_refund_percent: int = HELP_PAGE.largest_refund_percent
    """The largest partial refund, in percent of the price."""
    terms_name: str | None = None
    """What the marketplace calls these terms."""


def summarize(order_id: str, history: Iterable[e.Event]) -> Summary:
    """Returns an order's summary. `history`: all its events, oldest first."""
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
    return msgspec.structs.replace(row, **terms_columns(order.terms))


def terms_columns(terms: Terms) -> dict[str, Any]:
    """Returns the terms of an order as columns of its registration and of its summary."""
    return {f"terms_{name}": value for name, value in msgspec.structs.asdict(terms).items()}


def _count(row: Summary, event: e.Event) -> None:
    """Adds what the order's state does not contain."""
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
