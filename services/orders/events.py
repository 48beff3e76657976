"""The stored events: one class for each, without behavior.

The classes implement the eventsourcing library's `DomainEventProtocol`. A field annotated `Confidential` never leaves
the service: `public_events.py` drops it (D16). A field annotated `Written` holds what a person wrote. An erasure
removes both (`texts.py`).
"""

from datetime import datetime
from typing import Annotated, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType
from resolution_contracts.values import (
    CancellationGrounds,
    CancellationReason,
    ClosedBecause,
    DisputeKind,
    Initiator,
    RefundReason,
    Role,
    SettledAs,
)

from .policy import Terms

Confidential = msgspec.Meta(extra={"confidential": True})
Written = msgspec.Meta(extra={"written": True})


class Money(msgspec.Struct, frozen=True, gc=False):
    """An integer count of the currency's minor units, and the ISO 4217 code."""

    amount: int
    currency: str


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields that every stored event has."""

    originator_id: str = msgspec.field(name="order_id")
    """The order's id. The eventsourcing library prescribes the name."""
    originator_version: int = msgspec.field(name="sequence")
    """The event's sequence: its number in its order, from 1."""
    timestamp: datetime = msgspec.field(name="time")
    """The business time, in UTC (D1)."""
    command_id: str
    """The command that caused the event."""


class OrderRegistered(Event, frozen=True, kw_only=True, gc=False):
    """The service knows the order from now on."""

    client_id: str
    """The user id of the client."""
    freelancer_id: str
    """The user id of the freelancer."""
    price: Money
    """The original price: refunds are computed from it."""
    expected_delivery_at: datetime | None
    """The delivery date; None if the requirements have to come first."""
    awaiting_requirements: bool
    """Whether work waits for the client's requirements."""
    terms: Terms | UnsetType = UNSET
    """The order's terms. Unset if they are the help page's, as in every event of earlier versions (D20)."""


class RequirementsSubmitted(Event, frozen=True, kw_only=True, gc=False):
    """The client submitted the requirements, and the order is in progress."""

    expected_delivery_at: datetime


class OrderDelivered(Event, frozen=True, kw_only=True, gc=False):
    """The freelancer delivered the order."""


class RevisionRequested(Event, frozen=True, kw_only=True, gc=False):
    """The client asked for a revision, and the order is in progress again."""


class OrderCompleted(Event, frozen=True, kw_only=True, gc=False):
    """The order is complete."""


class DisputeOpened(Event, frozen=True, kw_only=True, gc=False):
    """A party sent a request.

    The fields after `respond_by` are those of the request. The fields of other kinds are unset, and not stored.
    """

    dispute_id: str
    """The id of the command that opened the dispute."""
    kind: DisputeKind
    """What the request asks for."""
    opened_by: Role
    """The requester."""
    respond_by: datetime
    """The deadline. It is stored, so that a later change of the policy does not move it (D18)."""
    message: Annotated[str | UnsetType, Written] = UNSET
    """Order update: the question to the freelancer."""
    comment: Annotated[str | UnsetType, Written] = UNSET
    """Cancellation: what the requester wrote."""
    reason: CancellationReason | UnsetType | None = UNSET
    """Cancellation: the reason from the requester's list. A client may leave it out: then it is None."""
    days: int | UnsetType = UNSET
    """Delivery extension: how many days."""
    note: Annotated[str | UnsetType, Written] = UNSET
    """Delivery extension: what the freelancer wrote."""
    amount: Money | UnsetType = UNSET
    """Partial refund: how much is offered."""
    explanation: Annotated[str | UnsetType, Written] = UNSET
    """Partial refund: what the freelancer wrote."""
    refund_reason: Annotated[RefundReason | UnsetType, Confidential] = UNSET
    """Partial refund: the confidential reason."""


class Accepted(Event, frozen=True, kw_only=True, gc=False):
    """The other party accepted the request in time."""

    dispute_id: str
    """The dispute that ended."""
    kind: DisputeKind
    """What the request asked for."""
    by: Role
    """The party that answered."""
    message: Annotated[str | None, Written]
    """What that party wrote, if anything."""


class Declined(Event, frozen=True, kw_only=True, gc=False):
    """The other party declined the request in time."""

    dispute_id: str
    """The dispute that ended."""
    kind: DisputeKind
    """What the request asked for."""
    by: Role
    """The party that answered."""
    message: Annotated[str | None, Written]
    """What that party wrote, if anything."""


class Withdrawn(Event, frozen=True, kw_only=True, gc=False):
    """The requester withdrew the request."""

    dispute_id: str
    kind: DisputeKind
    by: Role


class AutoAccepted(Event, frozen=True, kw_only=True, gc=False):
    """Nobody answered in time (R3). Its `timestamp` is the deadline, even if the event is stored later (D3)."""

    dispute_id: str
    kind: DisputeKind
    deadline: datetime


class DisputeClosed(Event, frozen=True, kw_only=True, gc=False):
    """A delivery, a completion or a cancellation of the order ended the dispute without an answer (D11)."""

    dispute_id: str
    kind: DisputeKind
    because: ClosedBecause


class DeliveryDateExtended(Event, frozen=True, kw_only=True, gc=False):
    """An accepted request moved the delivery date."""

    dispute_id: str
    days: int
    expected_delivery_at: datetime
    """The new delivery date."""


class OrderCanceled(Event, frozen=True, kw_only=True, gc=False):
    """The order was canceled."""

    initiated_by: Initiator
    """The party that asked for the cancellation, or the order service."""
    dispute_id: str | None
    """The accepted cancellation request; None if there was none."""
    grounds: CancellationGrounds
    """Why the order could be canceled."""
    affects_metrics: bool
    """Whether the cancellation counts in the freelancer's metrics (D15)."""
    refund_due: Money | None
    """What the client gets back (D10); None if the order service canceled the order."""
    comment: Annotated[str | None, Written]
    """What the initiator wrote, if anything."""


class PartialRefundGranted(Event, frozen=True, kw_only=True, gc=False):
    """An accepted offer granted the client a refund. `refund_id` is the id of the dispute."""

    refund_id: str
    amount: Money


class RefundProcessed(Event, frozen=True, kw_only=True, gc=False):
    """The payment service paid the granted refund."""

    refund_id: str


class OrderTextsErased(Event, frozen=True, kw_only=True, gc=False):
    """The texts and confidential fields of the order's earlier events cannot be read any more."""


Settling = Accepted | Declined | Withdrawn | AutoAccepted | DisputeClosed
"""An event that ends a dispute."""

SETTLED_AS: dict[type[Event], SettledAs] = {
    Accepted: SettledAs.ACCEPTED,
    Declined: SettledAs.DECLINED,
    Withdrawn: SettledAs.WITHDRAWN,
    AutoAccepted: SettledAs.AUTO_ACCEPTED,
    DisputeClosed: SettledAs.CLOSED,
}

EVENTS: dict[str, type[Event]] = {event.__name__: event for event in Event.__subclasses__()}
"""Every event class by its name in the store and on the wire."""


def annotated(event_type: type[Event], mark: msgspec.Meta) -> set[str]:
    """Returns the names of the fields with this annotation."""
    hints = get_type_hints(event_type, include_extras=True)
    return {name for name, hint in hints.items() if mark in getattr(hint, "__metadata__", ())}
