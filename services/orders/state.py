"""The state of an order, computed from its events."""

from datetime import datetime
from enum import StrEnum

import msgspec
from resolution_contracts.values import Role, SettledAs

from . import policy
from .events import DisputeOpened, OrderRegistered, PartialRefundGranted


class Status(StrEnum):
    """Where the order is between registration and its end."""

    UNKNOWN = "unknown"
    """Nobody registered the order."""
    AWAITING_REQUIREMENTS = "awaiting requirements"
    IN_PROGRESS = "in progress"
    DELIVERED = "delivered"
    COMPLETED = "completed"
    CANCELED = "canceled"


CLOSED = frozenset({Status.COMPLETED, Status.CANCELED})


class Settled(msgspec.Struct, frozen=True, gc=False):
    """What the state keeps of a dispute that ended."""

    opened_by: Role
    settled_as: SettledAs


class Order(msgspec.Struct):
    """An order and its disputes. Only `evolve` changes it.

    Snapshots and the order page store it as JSON. A change of the fields needs a new version of both.
    """

    id: str
    """The order id."""
    version: int = 0
    """The sequence of the last event. 0 means that nobody registered the order."""
    status: Status = Status.UNKNOWN
    """Decides which commands fit the order."""
    registered: OrderRegistered | None = None
    """The facts of the order: its parties, its price, its original delivery date."""
    expected_delivery_at: datetime | None = None
    """The delivery date with all extensions."""
    open_dispute: DisputeOpened | None = None
    """The dispute that waits for an answer, if any (R11)."""
    settled: dict[str, Settled] = {}
    """The disputes that ended, by their ids, oldest first."""
    refund: PartialRefundGranted | None = None
    """The refund that the client was granted, if any (R9)."""
    refund_processed: bool = False
    """Whether the payment service has paid that refund."""
    has_texts: bool = False
    """Whether any event has a text or a confidential field that isn't erased yet."""
    last_event_at: datetime | None = None
    """The business time of the last event."""

    @property
    def terms(self) -> policy.Terms:
        """The order's terms (D20). The help page's for an order that nobody registered."""
        if self.registered is None or isinstance(self.registered.terms, msgspec.UnsetType):
            return policy.HELP_PAGE
        return self.registered.terms

    def role_of(self, user: str) -> Role | None:
        """Returns the user's role in this order, or None if the user is not a party."""
        facts = self.registered
        if facts is None:
            return None
        if user == facts.client_id:
            return Role.CLIENT
        return Role.FREELANCER if user == facts.freelancer_id else None

    def business_time(self, record_time: datetime) -> datetime:
        """Returns the record's time, or the time of the order's last event if that is later (D1)."""
        return record_time if self.last_event_at is None else max(record_time, self.last_event_at)
