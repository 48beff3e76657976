"""Judges a command. Each command has one function, in the order of the help page.

Each function calls its guards first, in the order that gives the most helpful error, then adds the events that follow.
Nothing here changes the order: the caller applies the decision's events with `evolve`.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET
from resolution_contracts.commands import (
    Accept,
    CancelOrder,
    Command,
    Decline,
    EraseOrderTexts,
    ExpireDispute,
    OfferPartialRefund,
    OfferPartialRefundV2,
    OpenDispute,
    RecordCancellation,
    RecordCompletion,
    RecordDelivery,
    RecordRefundProcessed,
    RecordRequirementsSubmitted,
    RecordRevisionRequested,
    RegisterOrder,
    RegisterOrderV2,
    Withdraw,
)
from resolution_contracts.values import CancellationGrounds, ClosedBecause, DisputeKind, Initiator, Role

from . import policy, rejections
from .events import (
    Accepted,
    AutoAccepted,
    Declined,
    DeliveryDateExtended,
    DisputeClosed,
    DisputeOpened,
    Event,
    Money,
    OrderCanceled,
    OrderCompleted,
    OrderDelivered,
    OrderRegistered,
    OrderTextsErased,
    PartialRefundGranted,
    RefundProcessed,
    RequirementsSubmitted,
    RevisionRequested,
    Withdrawn,
)
from .evolve import evolved
from .guards import (
    must_be_answerable,
    must_be_dispute,
    must_be_free_to_request,
    must_be_granted,
    must_be_in,
    must_be_known,
    must_be_party,
    must_be_withdrawable,
    must_be_within_limit,
    must_be_within_terms,
    must_give_listed_reason,
    must_need_no_approval,
    must_not_be_closed,
)
from .rejections import Rejected
from .state import Order, Status


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What follows from a command."""

    events: list[Event]
    """Oldest first. A rejected command can have events too: a due auto-acceptance and its consequence (D3)."""
    rejection: Rejected | None = None
    """Why the rules refuse the command; None if they accept it."""


def decide(
    order: Order, command: Command | Rejected, command_id: str, now: datetime, *, ids_as_written: bool = False
) -> Decision:
    """Judges a command at the business time `now` (see `Order.business_time`). Does not change the order.

    For a command with invalid data, pass its rejection as `command`: due events are added to it. The ids of disputes
    and refunds are compared without regard to letter case; with `ids_as_written` exactly, as earlier versions did.
    """
    due = auto_acceptance(order, now, command_id)
    if due:
        order = evolved(order, due)
    if isinstance(command, Rejected):
        return Decision(due, command)
    case = Case(order.id, order.version, command_id, now, ids_as_written)
    try:
        _DECIDE[type(command)](order, command, case)
    except Rejected as rejection:
        return Decision(due, rejection.with_traceback(None))  # a traceback would keep this frame and the order alive
    return Decision(due + case.events if due else case.events)


def auto_acceptance(order: Order, now: datetime, command_id: str = "") -> list[Event]:
    """Returns the auto-acceptance and its consequence, dated at the open dispute's deadline (R3, D2, D3).

    Returns no events if no dispute is open, or if `now` is before the deadline.
    """
    dispute = order.open_dispute
    if dispute is None or now < dispute.respond_by:
        return []
    deadline = dispute.respond_by
    case = Case(order.id, order.version, command_id, deadline)
    case.add(AutoAccepted, dispute_id=dispute.dispute_id, kind=dispute.kind, deadline=deadline)
    _carry_out(order, dispute, CancellationGrounds.AUTO_ACCEPTED, case)
    return case.events


class Case(msgspec.Struct, gc=False):
    """One command on one order, and the events that follow so far."""

    order_id: str
    """The order that the command is about."""
    version: int
    """The order's version before these events."""
    command_id: str
    """The command that causes the events; the id of the dispute that it opens, if any."""
    now: datetime
    """The business time of the events."""
    ids_as_written: bool = False
    """Whether the ids of disputes and refunds must match in letter case too."""
    events: list[Event] = []
    """The events so far, oldest first."""

    def add(self, event_type: type[Event], **data: Any) -> None:
        """Adds the next event of the order."""
        self.events.append(
            event_type(
                originator_id=self.order_id,
                originator_version=self.version + len(self.events) + 1,
                timestamp=self.now,
                command_id=self.command_id,
                **data,
            )
        )


# --- facts from other services ---


def register_order(order: Order, command: RegisterOrder | RegisterOrderV2, case: Case) -> None:
    """Another service reports a new order and its terms (D20). Reporting the same again changes nothing."""
    terms = policy.terms_of(command.terms if isinstance(command, RegisterOrderV2) else None)
    facts = {
        "client_id": command.client_id,
        "freelancer_id": command.freelancer_id,
        "price": Money(command.price.amount, command.price.currency),
        "expected_delivery_at": command.expected_delivery_at,
        "awaiting_requirements": command.awaiting_requirements,
        "terms": UNSET if terms == policy.HELP_PAGE else terms,
    }
    known = order.registered
    if known is None:
        case.add(OrderRegistered, **facts)
    elif any(getattr(known, name) != value for name, value in facts.items()):
        raise rejections.order_exists()


def record_requirements_submitted(order: Order, command: RecordRequirementsSubmitted, case: Case) -> None:
    """The client has submitted the requirements, and work begins. The order needs a delivery date by now."""
    must_be_in(order, Status.AWAITING_REQUIREMENTS)
    expected = command.expected_delivery_at or order.expected_delivery_at
    if expected is None:
        raise rejections.invalid_field("expected_delivery_at", "is required: none was registered with the order")
    case.add(RequirementsSubmitted, expected_delivery_at=expected)


def record_delivery(order: Order, command: RecordDelivery, case: Case) -> None:
    """The freelancer has delivered. Closes an open extension or update, but no cancellation or refund (D11, D12)."""
    must_be_in(order, Status.IN_PROGRESS)
    dispute = order.open_dispute
    if dispute and dispute.kind in (DisputeKind.DELIVERY_EXTENSION, DisputeKind.ORDER_UPDATE):
        _close_open_dispute(order, ClosedBecause.ORDER_DELIVERED, case)
    case.add(OrderDelivered)


def record_revision_requested(order: Order, command: RecordRevisionRequested, case: Case) -> None:
    """The client has sent the delivery back: the order is in progress again (D12)."""
    must_be_in(order, Status.DELIVERED)
    case.add(RevisionRequested)


def record_completion(order: Order, command: RecordCompletion, case: Case) -> None:
    """The order is complete. Closes an open dispute (D11)."""
    must_be_in(order, Status.IN_PROGRESS, Status.DELIVERED)
    _close_open_dispute(order, ClosedBecause.ORDER_COMPLETED, case)
    case.add(OrderCompleted)


def record_cancellation(order: Order, command: RecordCancellation, case: Case) -> None:
    """The order service has canceled the order. Closes an open dispute (D11)."""
    must_not_be_closed(order)
    _close_open_dispute(order, ClosedBecause.ORDER_CANCELED, case)
    _cancel(order, Initiator.ORDER_SERVICE, CancellationGrounds.EXTERNAL, command.comment, case)


def record_refund_processed(order: Order, command: RecordRefundProcessed, case: Case) -> None:
    """The payment service has paid a refund. Allowed in every status, also after the order's end.

    Reporting it a second time changes nothing (D10).
    """
    must_be_known(order)
    refund = must_be_granted(order, command.refund_id, ids_as_written=case.ids_as_written)
    if not order.refund_processed:
        case.add(RefundProcessed, refund_id=refund.refund_id)


# --- requests (R1, R6-R8, R10) ---


def open_dispute(order: Order, command: OpenDispute, case: Case) -> None:
    """A party asks for an update (R6), an extension (R7) or a cancellation (R6, R10)."""
    request = command.request
    must_be_known(order)
    must_give_listed_reason(order, command.actor, request)
    must_be_within_terms(order, request)
    must_not_be_closed(order)
    role = must_be_party(order, command.actor)
    must_be_free_to_request(order, DisputeKind(request.kind), role)
    if request.kind == "order_update":
        _open(DisputeKind.ORDER_UPDATE, role, order, case, message=request.message)
    elif request.kind == "cancellation":
        _open(DisputeKind.CANCELLATION, role, order, case, comment=request.comment, reason=request.reason)
    else:
        _open(DisputeKind.DELIVERY_EXTENSION, role, order, case, days=request.days, note=request.note)


def offer_partial_refund(order: Order, command: OfferPartialRefund | OfferPartialRefundV2, case: Case) -> None:
    """The freelancer offers a part of the original price (R8, D9). At most one refund is granted (R9)."""
    price = must_not_be_closed(order).price
    role = must_be_party(order, command.actor)
    must_be_free_to_request(order, DisputeKind.PARTIAL_REFUND, role)
    amount = _offered(order, command, price)
    must_be_within_limit(order, amount, price)
    _open(
        DisputeKind.PARTIAL_REFUND,
        role,
        order,
        case,
        amount=amount,
        explanation=command.explanation,
        refund_reason=command.reason,
    )


# --- answers (R1-R3) ---


def accept(order: Order, command: Accept, case: Case) -> None:
    """The other party accepts in time, and the request is carried out (R1, D2, D7)."""
    dispute = must_be_answerable(order, command.actor, command.dispute_id, ids_as_written=case.ids_as_written)
    by = dispute.opened_by.other
    case.add(Accepted, dispute_id=dispute.dispute_id, kind=dispute.kind, by=by, message=command.message)
    _carry_out(order, dispute, CancellationGrounds.AGREEMENT, case)


def decline(order: Order, command: Decline, case: Case) -> None:
    """The other party declines in time (R1, D2, D7). Nothing follows, and a new request may be sent."""
    dispute = must_be_answerable(order, command.actor, command.dispute_id, ids_as_written=case.ids_as_written)
    by = dispute.opened_by.other
    case.add(Declined, dispute_id=dispute.dispute_id, kind=dispute.kind, by=by, message=command.message)


def withdraw(order: Order, command: Withdraw, case: Case) -> None:
    """The requester takes the request back before it is answered (R2, D7)."""
    dispute = must_be_withdrawable(order, command.actor, command.dispute_id, ids_as_written=case.ids_as_written)
    case.add(Withdrawn, dispute_id=dispute.dispute_id, kind=dispute.kind, by=dispute.opened_by)


def expire_dispute(order: Order, command: ExpireDispute, case: Case) -> None:
    """The timer reports a deadline. `decide` has added what is due (D3), so a dispute that is still open isn't due."""
    must_be_known(order)
    dispute = must_be_dispute(order, command.dispute_id, ids_as_written=case.ids_as_written)
    if isinstance(dispute, DisputeOpened):
        raise rejections.not_due(dispute.respond_by)


# --- the client's right (R5) ---


def cancel_order(order: Order, command: CancelOrder, case: Case) -> None:
    """The client cancels at once, even if a dispute is open (D6)."""
    must_not_be_closed(order)
    role = must_be_party(order, command.actor)
    grounds = must_need_no_approval(order, role, case.now)
    _close_open_dispute(order, ClosedBecause.ORDER_CANCELED, case)
    _cancel(order, Initiator.CLIENT, grounds, command.comment, case)


# --- for operators ---


def erase_order_texts(order: Order, command: EraseOrderTexts, case: Case) -> None:
    """Erases the order's texts. Allowed in every status, and with an open dispute.

    Changes nothing if the order has no texts.
    """
    must_be_known(order)
    if order.has_texts:
        case.add(OrderTextsErased)


# --- what follows ---


def _open(kind: DisputeKind, opened_by: Role, order: Order, case: Case, **request: Any) -> None:
    case.add(
        DisputeOpened,
        dispute_id=case.command_id,
        kind=kind,
        opened_by=opened_by,
        respond_by=case.now + order.terms.response_window,
        **request,
    )


def _offered(order: Order, command: OfferPartialRefund | OfferPartialRefundV2, price: Money) -> Money:
    """The amount of an offer, which version 2 may give in percent of the price: at most what the terms allow (D20)."""
    if command.amount is not None:
        return Money(command.amount.amount, command.amount.currency)
    assert isinstance(command, OfferPartialRefundV2)
    assert command.percent is not None
    if command.percent > order.terms.largest_refund_percent:
        raise rejections.refund_over_limit(order.terms, price)
    amount = policy.share(price.amount, command.percent)
    if amount == 0:
        raise rejections.not_allowed(
            f"{command.percent} percent of the price is less than one minor unit; offer a larger part of it."
        )
    return Money(amount, price.currency)


def _carry_out(order: Order, dispute: DisputeOpened, grounds: CancellationGrounds, case: Case) -> None:
    """Adds the event that carries out an accepted request. An update has no such event (D8)."""
    dispute_id = dispute.dispute_id
    if dispute.kind is DisputeKind.CANCELLATION:
        _cancel(order, Initiator(dispute.opened_by), grounds, str(dispute.comment), case, dispute_id)
    elif dispute.kind is DisputeKind.DELIVERY_EXTENSION:
        assert order.expected_delivery_at is not None
        assert isinstance(dispute.days, int)
        date = policy.extended(order.expected_delivery_at, dispute.days)
        case.add(DeliveryDateExtended, dispute_id=dispute_id, days=dispute.days, expected_delivery_at=date)
    elif dispute.kind is DisputeKind.PARTIAL_REFUND:
        case.add(PartialRefundGranted, refund_id=dispute_id, amount=dispute.amount)


def _close_open_dispute(order: Order, because: ClosedBecause, case: Case) -> None:
    """Closes the open dispute, if any, because of what happens to the order (D11)."""
    if (dispute := order.open_dispute) is not None:
        case.add(DisputeClosed, dispute_id=dispute.dispute_id, kind=dispute.kind, because=because)


def _cancel(
    order: Order,
    initiator: Initiator,
    grounds: CancellationGrounds,
    comment: str | None,
    case: Case,
    dispute_id: str | None = None,
) -> None:
    """Cancels the order. The refund due is the price less a granted refund (D10). See D15 for `affects_metrics`."""
    price = must_be_known(order).price
    granted = order.refund.amount.amount if order.refund else 0
    external = grounds is CancellationGrounds.EXTERNAL
    case.add(
        OrderCanceled,
        initiated_by=initiator,
        dispute_id=dispute_id,
        grounds=grounds,
        affects_metrics=not external and grounds is not CancellationGrounds.AWAITING_REQUIREMENTS,
        refund_due=None if external else Money(price.amount - granted, price.currency),
        comment=comment,
    )


_DECIDE: dict[type[Command], Callable[[Order, Any, Case], None]] = {
    RegisterOrder: register_order,
    RegisterOrderV2: register_order,
    RecordRequirementsSubmitted: record_requirements_submitted,
    RecordDelivery: record_delivery,
    RecordRevisionRequested: record_revision_requested,
    RecordCompletion: record_completion,
    RecordCancellation: record_cancellation,
    RecordRefundProcessed: record_refund_processed,
    OpenDispute: open_dispute,
    OfferPartialRefund: offer_partial_refund,
    OfferPartialRefundV2: offer_partial_refund,
    Accept: accept,
    Decline: decline,
    Withdraw: withdraw,
    CancelOrder: cancel_order,
    ExpireDispute: expire_dispute,
    EraseOrderTexts: erase_order_texts,
}
