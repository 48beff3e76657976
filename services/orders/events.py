"""What is stored: one class per event, plain data.

The classes fit the eventsourcing library's `DomainEventProtocol`; `originator_id` is the order id and
`originator_version` the event's number in its order, from 1. A field annotated `Confidential` never leaves the
service: `public_events.py` drops it (D16). One annotated `Written` is what a person wrote. Both can be erased
(`texts.py`).
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

Confidential = msgspec.Meta(extra={"confidential": True})
Written = msgspec.Meta(extra={"written": True})


class Money(msgspec.Struct, frozen=True, gc=False):
    """An integer count of the currency's minor units, and the ISO 4217 code."""

    amount: int
    currency: str


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every stored event knows.

    `timestamp` is the business time (D1), UTC; `command_id` the command that caused it.
    """

    originator_id: str = msgspec.field(name="order_id")
    originator_version: int = msgspec.field(name="sequence")
    timestamp: datetime = msgspec.field(name="time")
    command_id: str


class OrderRegistered(Event, frozen=True, kw_only=True, gc=False):
    client_id: str
    freelancer_id: str
    price: Money
    expected_delivery_at: datetime | None
    awaiting_requirements: bool


class RequirementsSubmitted(Event, frozen=True, kw_only=True, gc=False):
    expected_delivery_at: datetime


class OrderDelivered(Event, frozen=True, kw_only=True, gc=False):
    pass


class RevisionRequested(Event, frozen=True, kw_only=True, gc=False):
    pass


class OrderCompleted(Event, frozen=True, kw_only=True, gc=False):
    pass


class DisputeOpened(Event, frozen=True, kw_only=True, gc=False):
    """The deadline is fixed here, so that a later change of policy moves no open one (D18).

    Behind `respond_by` come the fields of the request; those of other kinds are unset and not stored.
    """

    dispute_id: str
    kind: DisputeKind
    opened_by: Role
    respond_by: datetime
    message: Annotated[str | UnsetType, Written] = UNSET
    comment: Annotated[str | UnsetType, Written] = UNSET
    reason: CancellationReason | UnsetType | None = UNSET
    days: int | UnsetType = UNSET
    note: Annotated[str | UnsetType, Written] = UNSET
    amount: Money | UnsetType = UNSET
    explanation: Annotated[str | UnsetType, Written] = UNSET
    refund_reason: Annotated[RefundReason | UnsetType, Confidential] = UNSET


class Accepted(Event, frozen=True, kw_only=True, gc=False):
    dispute_id: str
    kind: DisputeKind
    by: Role
    message: Annotated[str | None, Written]


class Declined(Event, frozen=True, kw_only=True, gc=False):
    dispute_id: str
    kind: DisputeKind
    by: Role
    message: Annotated[str | None, Written]


class Withdrawn(Event, frozen=True, kw_only=True, gc=False):
    dispute_id: str
    kind: DisputeKind
    by: Role


class AutoAccepted(Event, frozen=True, kw_only=True, gc=False):
    """Nobody answered in time (R3). Its `timestamp` is the deadline, whenever it was noticed (D3)."""

    dispute_id: str
    kind: DisputeKind
    deadline: datetime


class DisputeClosed(Event, frozen=True, kw_only=True, gc=False):
    """What happened to the order settled it (D11)."""

    dispute_id: str
    kind: DisputeKind
    because: ClosedBecause


class DeliveryDateExtended(Event, frozen=True, kw_only=True, gc=False):
    dispute_id: str
    days: int
    expected_delivery_at: datetime


class OrderCanceled(Event, frozen=True, kw_only=True, gc=False):
    initiated_by: Initiator
    dispute_id: str | None
    grounds: CancellationGrounds
    affects_metrics: bool
    refund_due: Money | None
    comment: Annotated[str | None, Written]


class PartialRefundGranted(Event, frozen=True, kw_only=True, gc=False):
    refund_id: str
    amount: Money


class RefundProcessed(Event, frozen=True, kw_only=True, gc=False):
    refund_id: str


class OrderTextsErased(Event, frozen=True, kw_only=True, gc=False):
    """What was written and what is confidential on earlier events cannot be read any more."""


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
"""Every event by its name, in the store and on the wire."""


def annotated(event_type: type[Event], mark: msgspec.Meta) -> set[str]:
    """The names of the fields with this annotation."""
    hints = get_type_hints(event_type, include_extras=True)
    return {name for name, hint in hints.items() if mark in getattr(hint, "__metadata__", ())}
