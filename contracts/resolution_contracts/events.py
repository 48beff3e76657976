"""The public event stream. One class per event: its `data`. Readers ignore fields they do not know."""

from pydantic import BaseModel, ConfigDict

from .terms import OrderTerms
from .values import (
    CancellationGrounds,
    CancellationReason,
    ClosedBecause,
    Currency,
    DisputeKind,
    Initiator,
    Money,
    PublishedInstant,
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
    """The service knows the order from now on. `terms` are absent if they are the help page's (D20)."""

    client_id: str
    freelancer_id: str
    price: Money
    expected_delivery_at: PublishedInstant | None
    awaiting_requirements: bool
    terms: OrderTerms = OrderTerms()


class RequirementsSubmitted(PublicEvent):
    """The client submitted the requirements, and the order is in progress."""

    expected_delivery_at: PublishedInstant


class OrderDelivered(PublicEvent):
    """The freelancer delivered the order."""


class RevisionRequested(PublicEvent):
    """The client asked for a revision, and the order is in progress again."""


class OrderCompleted(PublicEvent):
    """The order is complete."""


class DisputeOpened(PublicEvent):
    """A party sent a request. Fields of other kinds of requests are absent; in Python they are None."""

    dispute_id: str
    kind: DisputeKind
    opened_by: Role
    respond_by: PublishedInstant
    message: str | None = None
    comment: str | None = None
    reason: CancellationReason | None = None
    days: int | None = None
    note: str | None = None
    amount: Money | None = None
    explanation: str | None = None


class Accepted(PublicEvent):
    """The other party accepted the request in time."""

    dispute_id: str
    kind: DisputeKind
    by: Role
    message: str | None


class Declined(PublicEvent):
    """The other party declined the request in time."""

    dispute_id: str
    kind: DisputeKind
    by: Role
    message: str | None


class Withdrawn(PublicEvent):
    """The requester withdrew the request."""

    dispute_id: str
    kind: DisputeKind
    by: Role


class AutoAccepted(PublicEvent):
    """Nobody answered in time (R3). The envelope's `time` is the deadline itself."""

    dispute_id: str
    kind: DisputeKind
    deadline: PublishedInstant


class DisputeClosed(PublicEvent):
    """A delivery, a completion or a cancellation of the order ended the dispute without an answer (D11)."""

    dispute_id: str
    kind: DisputeKind
    because: ClosedBecause


class DeliveryDateExtended(PublicEvent):
    """An accepted request moved the delivery date."""

    dispute_id: str
    days: int
    expected_delivery_at: PublishedInstant


class OrderCanceled(PublicEvent):
    """The order was canceled. `refund_due` is null if the order service canceled it."""

    initiated_by: Initiator
    dispute_id: str | None
    grounds: CancellationGrounds
    affects_metrics: bool
    refund_due: RefundDue | None
    comment: str | None


class PartialRefundGranted(PublicEvent):
    """The client was granted a refund, which the payment service has to pay."""

    refund_id: str
    amount: Money


class RefundProcessed(PublicEvent):
    """The payment service paid the granted refund."""

    refund_id: str


class OrderTextsErased(PublicEvent):
    """Erase what you keep of this order's `message`, `comment`, `note` and `explanation` up to this event's `sequence`.

    Whoever reads an earlier event from now on may find `[erased]` in their place.
    """


EVENTS: dict[str, type[PublicEvent]] = {
    event.__name__: event for event in PublicEvent.__subclasses__() if event is not RefundDue
}
"""Every public event by its name on the wire."""
