"""Ready-made commands, parties, prices and times, shared by unit tests, integration tests and the bench.

A command is made by the function that says what it does: `opened(cancellation())`, `refund_offer(60_00)`, `accept()`.
Left alone they tell one story: on ORDER, 100.00 USD, due DUE, the client asks for a cancellation, which becomes the
dispute FIRST, and the freelancer answers. `in_envelope` wraps a command for Kafka, `as_record` makes it a record.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from resolution_contracts import (
    Accept,
    CancellationReason,
    CancellationRequest,
    CancelOrder,
    Command,
    CommandEnvelope,
    Decline,
    DeliveryExtensionRequest,
    ExpireDispute,
    Money,
    OfferPartialRefund,
    OfferPartialRefundV2,
    OpenDispute,
    OrderUpdateRequest,
    RecordCancellation,
    RecordCompletion,
    RecordDelivery,
    RecordRefundProcessed,
    RecordRequirementsSubmitted,
    RecordRevisionRequested,
    RefundReason,
    RegisterOrder,
    Withdraw,
    topics,
)
from resolution_contracts.commands import RegisterOrderV2

from services.judging.record import Record

# --- times ---

MS = timedelta(milliseconds=1)
HOURS = timedelta(hours=1)
DAYS = timedelta(days=1)

T = datetime(2026, 3, 2, 9, tzinfo=UTC)
"""The time at which every example begins."""

DUE = T + 10 * DAYS
"""When the freelancer should deliver."""

VERY_LATE = DUE + 24 * HOURS

# --- who, and how much ---

ORDER = "order-1"
CLIENT, FREELANCER, STRANGER = "client-1", "freelancer-1", "stranger-1"
ROLES = {CLIENT: "client", FREELANCER: "freelancer"}

COMMENT = "It does not work out."
MESSAGE = "How is it going?"
NOTE = "A few days more, please."
EXPLANATION = "Sorry for the wait."


def usd(amount: int) -> Money:
    """Takes cents: `usd(100_00)` is 100.00 USD."""
    return Money(amount=amount, currency="USD")


PRICE = usd(100_00)


def command_id(number: int) -> str:
    """A command id that a reader can recognise."""
    return str(UUID(int=number))


FIRST, SECOND, THIRD = command_id(1), command_id(2), command_id(3)
"""The ids of an order's first, second and third request, and so of the disputes and refunds that they become."""


def other(user: str) -> str:
    """Returns the other party."""
    return FREELANCER if user == CLIENT else CLIENT


# --- facts from other services ---


def registered(**facts: Any) -> RegisterOrder:
    """Registers an order that is in progress, unless the facts say otherwise.

    With `terms`, a dictionary or None, it is the second version of the command: `registered(terms={"response_hours": 1})`.
    """
    usual = {"client_id": CLIENT, "freelancer_id": FREELANCER, "price": PRICE, "expected_delivery_at": DUE}
    return (RegisterOrderV2 if "terms" in facts else RegisterOrder)(**(usual | facts))


def registered_awaiting(**facts: Any) -> RegisterOrder:
    """Registers an order that awaits requirements and has no delivery date."""
    return registered(**({"awaiting_requirements": True, "expected_delivery_at": None} | facts))


def started(expected_delivery_at: datetime | None = DUE) -> RecordRequirementsSubmitted:
    return RecordRequirementsSubmitted(expected_delivery_at=expected_delivery_at)


def delivered() -> RecordDelivery:
    return RecordDelivery()


def revised() -> RecordRevisionRequested:
    return RecordRevisionRequested()


def completed() -> RecordCompletion:
    return RecordCompletion()


def canceled_elsewhere(comment: str | None = None) -> RecordCancellation:
    return RecordCancellation(comment=comment)


def refunded(refund: str = FIRST) -> RecordRefundProcessed:
    return RecordRefundProcessed(refund_id=refund)


# --- requests ---


def order_update(message: str = MESSAGE) -> OrderUpdateRequest:
    return OrderUpdateRequest(kind="order_update", message=message)


def cancellation(reason: str | None = None, comment: str = COMMENT) -> CancellationRequest:
    """A client need not give a reason. A freelancer's may be "scope_changed"."""
    return CancellationRequest(
        kind="cancellation", comment=comment, reason=None if reason is None else CancellationReason(reason)
    )


def extension(days: int = 5, note: str = NOTE) -> DeliveryExtensionRequest:
    return DeliveryExtensionRequest(kind="delivery_extension", days=days, note=note)


def opened(
    request: OrderUpdateRequest | CancellationRequest | DeliveryExtensionRequest, by: str | None = None
) -> OpenDispute:
    """The freelancer asks for extensions, the client for everything else."""
    usual = FREELANCER if request.kind == "delivery_extension" else CLIENT
    return OpenDispute(actor=by or usual, request=request)


def refund_offer(
    amount: int = 60_00,
    by: str = FREELANCER,
    currency: str = "USD",
    reason: str = "minor_dissatisfaction",
    explanation: str = EXPLANATION,
) -> OfferPartialRefund:
    return OfferPartialRefund(
        actor=by,
        amount=Money(amount=amount, currency=currency),
        explanation=explanation,
        reason=RefundReason(reason),
    )


def share_offer(percent: int, by: str = FREELANCER) -> OfferPartialRefundV2:
    """Offers a percentage of the price."""
    return OfferPartialRefundV2(actor=by, percent=percent, explanation=EXPLANATION, reason=RefundReason.OTHER)


# --- answers, the client's right, the timer ---


def accept(dispute: str = FIRST, by: str = FREELANCER, message: str | None = None) -> Accept:
    return Accept(actor=by, dispute_id=dispute, message=message)


def decline(dispute: str = FIRST, by: str = FREELANCER, message: str | None = None) -> Decline:
    return Decline(actor=by, dispute_id=dispute, message=message)


def withdraw(dispute: str = FIRST, by: str = CLIENT) -> Withdraw:
    return Withdraw(actor=by, dispute_id=dispute)


def cancel(by: str = CLIENT, comment: str = COMMENT) -> CancelOrder:
    return CancelOrder(actor=by, comment=comment)


def expire(dispute: str = FIRST) -> ExpireDispute:
    return ExpireDispute(dispute_id=dispute)


# --- on the way to the service ---


def in_envelope(
    command: Command, command_id: str = FIRST, order_id: str = ORDER, source: str = "/tests"
) -> CommandEnvelope:
    return CommandEnvelope.of(order_id, command, source=source, id=command_id)


def untyped(
    name: str, data: dict[str, Any], command_id: str = FIRST, order_id: str = ORDER, version: int = 1
) -> CommandEnvelope:
    """Returns a command with unchecked data: `untyped("OpenDispute", {"actor": ""})`."""
    type_ = topics.command_type(name, version)
    return CommandEnvelope(id=command_id, type=type_, source="/tests", subject=order_id, data=data)


def as_record(envelope: CommandEnvelope, at: datetime = T, offset: int = 0, partition: int = 0) -> Record:
    return raw_record(envelope.key, envelope.to_json(), at, offset, partition)


def raw_record(key: bytes | None, value: bytes | None, at: datetime = T, offset: int = 0, partition: int = 0) -> Record:
    return Record(topics.COMMANDS, partition, offset, milliseconds(at), key, value)


def milliseconds(instant: datetime) -> int:
    """Converts an instant to Kafka's time: milliseconds since 1970."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // MS
