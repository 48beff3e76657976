"""What several read models remember of an order: its parties, and the dispute that is open."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from resolution_contracts.values import DisputeKind, Role

from services.orders import events as e


class OpenDispute(msgspec.Struct, frozen=True):
    """A dispute that waits for an answer."""

    dispute_id: str
    kind: DisputeKind
    opened_by: Role
    opened_at: datetime
    respond_by: datetime


class KnownOrder(msgspec.Struct):
    """An order as far as its disputes go."""

    order_id: str
    client_id: str = ""
    freelancer_id: str = ""
    dispute: OpenDispute | None = None

    def party(self, role: Role) -> str:
        """The user id of a party."""
        return self.client_id if role is Role.CLIENT else self.freelancer_id

    @property
    def asker(self) -> str | None:
        """Who sent the open request."""
        return None if self.dispute is None else self.party(self.dispute.opened_by)

    @property
    def answerer(self) -> str | None:
        """Who has to answer it."""
        return None if self.dispute is None else self.party(self.dispute.opened_by.other)


SETTLEMENTS: tuple[type[e.Event], ...] = (e.Accepted, e.Declined, e.Withdrawn, e.AutoAccepted, e.DisputeClosed)


def registered(order: KnownOrder, event: e.OrderRegistered) -> None:
    """Notes the order's parties."""
    order.client_id, order.freelancer_id = event.client_id, event.freelancer_id


def opened(order: KnownOrder, event: e.DisputeOpened) -> None:
    """Notes the open dispute."""
    order.dispute = OpenDispute(event.dispute_id, event.kind, event.opened_by, event.timestamp, event.respond_by)


def settled(order: KnownOrder, event: e.Event) -> None:
    """Forgets the dispute: no other one is open."""
    order.dispute = None


HANDLERS: Mapping[type[e.Event], Callable[[Any, Any], None]] = {
    e.OrderRegistered: registered,
    e.DisputeOpened: opened,
    **dict.fromkeys(SETTLEMENTS, settled),
}
