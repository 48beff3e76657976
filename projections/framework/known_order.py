"""The document that several read models keep of an order: its parties and its open dispute."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from resolution_contracts.values import DisputeKind, Role

from services.orders import events as e


class OpenDispute(msgspec.Struct, frozen=True):
    """A dispute that waits for an answer."""

    dispute_id: str
    """The dispute's id."""
    kind: DisputeKind
    """What the requester asks for."""
    opened_by: Role
    """The requester."""
    opened_at: datetime
    """When the requester sent the request, in business time."""
    respond_by: datetime
    """The deadline."""


class KnownOrder(msgspec.Struct):
    """An order's parties and its open dispute."""

    order_id: str
    """The order's id."""
    client_id: str = ""
    """The user id of the client. Empty until the order is registered."""
    freelancer_id: str = ""
    """The user id of the freelancer. Empty until the order is registered."""
    dispute: OpenDispute | None = None
    """The open dispute, or None."""

    def party(self, role: Role) -> str:
        """Returns the user id of a party."""
        return self.client_id if role is Role.CLIENT else self.freelancer_id

    @property
    def asker(self) -> str | None:
        """The user id of the open dispute's requester, or None without an open dispute."""
        return None if self.dispute is None else self.party(self.dispute.opened_by)

    @property
    def answerer(self) -> str | None:
        """The user id of the party that has to answer, or None without an open dispute."""
        return None if self.dispute is None else self.party(self.dispute.opened_by.other)


SETTLEMENTS: tuple[type[e.Event], ...] = (e.Accepted, e.Declined, e.Withdrawn, e.AutoAccepted, e.DisputeClosed)


def registered(order: KnownOrder, event: e.OrderRegistered) -> None:
    """Stores the order's parties."""
    order.client_id, order.freelancer_id = event.client_id, event.freelancer_id


def opened(order: KnownOrder, event: e.DisputeOpened) -> None:
    """Stores the open dispute."""
    order.dispute = OpenDispute(event.dispute_id, event.kind, event.opened_by, event.timestamp, event.respond_by)


def settled(order: KnownOrder, event: e.Event) -> None:
    """Removes the open dispute. An order has at most one."""
    order.dispute = None


HANDLERS: Mapping[type[e.Event], Callable[[Any, Any], None]] = {
    e.OrderRegistered: registered,
    e.DisputeOpened: opened,
    **dict.fromkeys(SETTLEMENTS, settled),
}
