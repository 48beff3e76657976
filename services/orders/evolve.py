"""How each event changes the state of an order. No rule is checked here, because stored events always count."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from . import events as e
from .state import Order, Settled, Status
from .texts import WITH_TEXTS, texts, without_texts


def evolve(order: Order, event: e.Event) -> None:
    """Applies the order's next event. Raises ValueError if the event isn't the next one."""
    if event.originator_version != order.version + 1:
        raise ValueError(f"order {order.id} is at {order.version}, event {event.originator_version} is not the next")
    kind = type(event)
    _EVOLVE[kind](order, event)
    if kind in WITH_TEXTS and not order.has_texts:
        order.has_texts = bool(texts(event))
    order.version = event.originator_version
    order.last_event_at = event.timestamp


def evolve_all(order: Order, events: Iterable[e.Event]) -> Order:
    """Applies events in their order, and returns the same order object. Raises ValueError as `evolve` does."""
    for event in events:
        evolve(order, event)
    return order


def evolved(order: Order, events: Iterable[e.Event]) -> Order:
    """Returns a copy of the order with these events applied. Does not change the order."""
    return evolve_all(msgspec.structs.replace(order, settled=order.settled.copy()), events)


def _registered(order: Order, event: e.OrderRegistered) -> None:
    order.registered = event
    order.expected_delivery_at = event.expected_delivery_at
    order.status = Status.AWAITING_REQUIREMENTS if event.awaiting_requirements else Status.IN_PROGRESS


def _requirements_submitted(order: Order, event: e.RequirementsSubmitted) -> None:
    order.expected_delivery_at = event.expected_delivery_at
    order.status = Status.IN_PROGRESS


def _delivered(order: Order, event: e.OrderDelivered) -> None:
    order.status = Status.DELIVERED


def _revision_requested(order: Order, event: e.RevisionRequested) -> None:
    order.status = Status.IN_PROGRESS


def _completed(order: Order, event: e.OrderCompleted) -> None:
    order.status = Status.COMPLETED


def _opened(order: Order, event: e.DisputeOpened) -> None:
    order.open_dispute = event


def _settled(order: Order, event: e.Settling) -> None:
    assert order.open_dispute is not None
    order.settled[event.dispute_id] = Settled(order.open_dispute.opened_by, e.SETTLED_AS[type(event)])
    order.open_dispute = None


def _extended(order: Order, event: e.DeliveryDateExtended) -> None:
    order.expected_delivery_at = event.expected_delivery_at


def _canceled(order: Order, event: e.OrderCanceled) -> None:
    order.status = Status.CANCELED


def _refund_granted(order: Order, event: e.PartialRefundGranted) -> None:
    order.refund = event


def _refund_processed(order: Order, event: e.RefundProcessed) -> None:
    order.refund_processed = True


def _texts_erased(order: Order, event: e.OrderTextsErased) -> None:
    order.has_texts = False
    if order.open_dispute is not None:
        order.open_dispute = without_texts(order.open_dispute)


_EVOLVE: dict[type[e.Event], Callable[[Order, Any], None]] = {
    e.OrderRegistered: _registered,
    e.RequirementsSubmitted: _requirements_submitted,
    e.OrderDelivered: _delivered,
    e.RevisionRequested: _revision_requested,
    e.OrderCompleted: _completed,
    e.DisputeOpened: _opened,
    **dict.fromkeys(e.SETTLED_AS, _settled),
    e.DeliveryDateExtended: _extended,
    e.OrderCanceled: _canceled,
    e.PartialRefundGranted: _refund_granted,
    e.RefundProcessed: _refund_processed,
    e.OrderTextsErased: _texts_erased,
}
