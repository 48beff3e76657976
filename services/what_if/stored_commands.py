"""Makes a command from the events that it led to, where the command itself has expired.

Texts are not compared and not shown, so they are taken as the events have them: erased.
"""

from collections.abc import Callable, Sequence
from typing import Any

from resolution_contracts import commands as c
from resolution_contracts.values import Role

from services.orders import Order
from services.orders import events as e
from services.orders.texts import ERASED


def command_of(order: Order, events: Sequence[e.Event]) -> tuple[c.Command, e.Event] | None:
    """Returns the command that led to these events, and the event that shows it.

    Returns None if no command of a person or a service did: the deadline did, or the order was registered.
    """
    for event in events:
        make = _COMMANDS.get(type(event))
        command = None if make is None else make(order, event)
        if command is not None:
            return command, event
    return None


def _opened(order: Order, event: e.DisputeOpened) -> c.Command:
    actor = _user(order, event.opened_by)
    if event.kind == "partial_refund":
        return c.OfferPartialRefund.model_construct(
            actor=actor, amount=event.amount, explanation=ERASED, reason=event.refund_reason
        )
    request: Any
    if event.kind == "delivery_extension":
        request = c.DeliveryExtensionRequest.model_construct(kind=event.kind, days=event.days, note=ERASED)
    elif event.kind == "cancellation":
        request = c.CancellationRequest.model_construct(kind=event.kind, comment=ERASED, reason=event.reason)
    else:
        request = c.OrderUpdateRequest.model_construct(kind=event.kind, message=ERASED)
    return c.OpenDispute.model_construct(actor=actor, request=request)


def _answer(command: type[c.Command]) -> Callable[[Order, Any], c.Command]:
    def make(order: Order, event: e.Accepted | e.Declined) -> c.Command:
        actor = _user(order, event.by)
        return command.model_construct(actor=actor, dispute_id=event.dispute_id, message=event.message)

    return make


def _withdrawn(order: Order, event: e.Withdrawn) -> c.Command:
    return c.Withdraw.model_construct(actor=_user(order, event.by), dispute_id=event.dispute_id)


def _canceled(order: Order, event: e.OrderCanceled) -> c.Command | None:
    if event.dispute_id is not None:
        return None  # the consequence of an accepted request
    if event.grounds == "external":
        return c.RecordCancellation.model_construct(comment=event.comment)
    return c.CancelOrder.model_construct(actor=_user(order, Role.CLIENT), comment=ERASED)


def _submitted(order: Order, event: e.RequirementsSubmitted) -> c.Command:
    return c.RecordRequirementsSubmitted.model_construct(expected_delivery_at=event.expected_delivery_at)


def _processed(order: Order, event: e.RefundProcessed) -> c.Command:
    return c.RecordRefundProcessed.model_construct(refund_id=event.refund_id)


def _fact(command: type[c.Command]) -> Callable[[Order, Any], c.Command]:
    return lambda order, event: command.model_construct()


def _user(order: Order, role: Role) -> str:
    assert order.registered is not None
    return order.registered.client_id if role is Role.CLIENT else order.registered.freelancer_id


_COMMANDS: dict[type[e.Event], Callable[[Order, Any], c.Command | None]] = {
    e.RequirementsSubmitted: _submitted,
    e.OrderDelivered: _fact(c.RecordDelivery),
    e.RevisionRequested: _fact(c.RecordRevisionRequested),
    e.OrderCompleted: _fact(c.RecordCompletion),
    e.DisputeOpened: _opened,
    e.Accepted: _answer(c.Accept),
    e.Declined: _answer(c.Decline),
    e.Withdrawn: _withdrawn,
    e.OrderCanceled: _canceled,
    e.RefundProcessed: _processed,
    e.OrderTextsErased: _fact(c.EraseOrderTexts),
}
