"""The public event stream. One class per event: its `data`. Readers ignore fields they do not know."""

from pydantic import BaseModel, ConfigDict

from .values import (
    CancellationGrounds,
    CancellationReason,
    ClosedBecause,
    Currency,
    DisputeKind,
    Initiator,
    Instant,
    Money,
    Role,
)


class PublicEvent(BaseModel):
    """Base of all public events."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RefundDue(PublicEvent):
    """What a cancellation pays back: like Money, but it may be zero."""

    amount: int
    currency: Currency


class OrderRegistered(PublicEvent):
    client_id: str
    freelancer_id: str
    price: Money
    expected_delivery_at: Instant | None
    awaiting_requirements: bool


class RequirementsSubmitted(PublicEvent):
    expected_delivery_at: Instant


class OrderDelivered(PublicEvent):
    pass


class RevisionRequested(PublicEvent):
    pass


class OrderCompleted(PublicEvent):
    pass


class DisputeOpened(PublicEvent):
    """A dispute, with the fields of its own kind; those of the other kinds are absent from the wire and None here."""

    dispute_id: str
    kind: DisputeKind
    opened_by: Role
    respond_by: Instant
    message: str | None = None
    comment: str | None = None
    reason: CancellationReason | None = None
    days: int | None = None
    note: str | None = None
    amount: Money | None = None
    explanation: str | None = None


class Accepted(PublicEvent):
    dispute_id: str
    kind: DisputeKind
    by: Role
    message: str | None


class Declined(PublicEvent):
    dispute_id: str
    kind: DisputeKind
    by: Role
    message: str | None


class Withdrawn(PublicEvent):
    dispute_id: str
    kind: DisputeKind
    by: Role


class AutoAccepted(PublicEvent):
    """Nobody answered in time (R3). The envelope's `time` is the deadline itself."""

    dispute_id: str
    kind: DisputeKind
    deadline: Instant


class DisputeClosed(PublicEvent):
    """Settled by what happened to the order, without an acceptance (D11)."""

    dispute_id: str
    kind: DisputeKind
    because: ClosedBecause


class DeliveryDateExtended(PublicEvent):
    dispute_id: str
    days: int
    expected_delivery_at: Instant


class OrderCanceled(PublicEvent):
    initiated_by: Initiator
    dispute_id: str | None
    grounds: CancellationGrounds
    affects_metrics: bool
    refund_due: RefundDue | None
    comment: str | None


class PartialRefundGranted(PublicEvent):
    """The payment service's cue."""

    refund_id: str
    amount: Money


class RefundProcessed(PublicEvent):
    refund_id: str


class OrderTextsErased(PublicEvent):
    """Erase what you keep of this order's `message`, `comment`, `note` and `explanation` up to this event's `sequence`.

    Whoever reads an earlier event from now on may find `[erased]` in their place.
    """


EVENTS: dict[str, type[PublicEvent]] = {
    event.__name__: event for event in PublicEvent.__subclasses__() if event is not RefundDue
}
"""Every public event by its name on the wire."""
