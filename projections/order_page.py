"""The order page: facts, the open dispute, the history of disputes, and what each party can do now (R12).

The stored row says what the events said. Time is applied when somebody looks: a deadline that has passed changes the
page even before its event is stored (D3).
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from resolution_contracts.values import DisputeKind, Role, SettledAs, format_instant

from services.orders import Order, evolve
from services.orders import events as e
from services.orders.actions import available_actions

from .read_model import Fact, Handler, ReadModel


class Dispute(msgspec.Struct):
    """A dispute as the page tells it. `request` has what was asked for; `refund_reason` is confidential (D16)."""

    dispute_id: str
    kind: DisputeKind
    opened_by: Role
    opened_at: datetime
    respond_by: datetime
    request: dict[str, Any]
    refund_reason: str | None = None
    settled_as: SettledAs | None = None
    settled_at: datetime | None = None
    message: str | None = None
    """What the other party wrote with its answer."""
    closed_because: str | None = None


class Page(msgspec.Struct):
    """The stored document: the order, and its disputes, the newest last."""

    order: Order
    disputes: list[Dispute] = []
    canceled: dict[str, Any] | None = None


# --- one handler per event that shows beyond the order's own state ---


def _opened(page: Page, event: e.DisputeOpened) -> None:
    fields = ("message", "comment", "reason", "days", "note", "amount", "explanation")
    request = {name: value for name in fields if (value := getattr(event, name)) is not msgspec.UNSET}
    page.disputes.append(
        Dispute(
            dispute_id=event.dispute_id,
            kind=event.kind,
            opened_by=event.opened_by,
            opened_at=event.timestamp,
            respond_by=event.respond_by,
            request=msgspec.to_builtins(request),
            refund_reason=None if event.refund_reason is msgspec.UNSET else event.refund_reason,
        )
    )


def _settled(settled_as: SettledAs) -> Callable[[Page, Any], None]:
    def settle(page: Page, event: Any) -> None:
        dispute = page.disputes[-1]
        dispute.settled_as = settled_as
        dispute.settled_at = event.timestamp
        dispute.message = getattr(event, "message", None)
        dispute.closed_because = getattr(event, "because", None)

    return settle


def _canceled(page: Page, event: e.OrderCanceled) -> None:
    page.canceled = msgspec.to_builtins(
        {
            "initiated_by": event.initiated_by,
            "grounds": event.grounds,
            "dispute_id": event.dispute_id,
            "refund_due": event.refund_due,
            "comment": event.comment,
            "at": format_instant(event.timestamp),
        }
    )


_SHOWN: Mapping[type[e.Event], Handler] = {
    e.DisputeOpened: _opened,
    e.Accepted: _settled(SettledAs.ACCEPTED),
    e.Declined: _settled(SettledAs.DECLINED),
    e.Withdrawn: _settled(SettledAs.WITHDRAWN),
    e.AutoAccepted: _settled(SettledAs.AUTO_ACCEPTED),
    e.DisputeClosed: _settled(SettledAs.CLOSED),
    e.OrderCanceled: _canceled,
}


def show(page: Page, event: e.Event) -> None:
    """What an event changes on the page beside the order's state."""
    if handler := _SHOWN.get(type(event)):
        handler(page, event)


class OrderPages(ReadModel[Page]):
    """The read model."""

    name = "order_page"
    document = Page
    columns = {  # noqa: RUF012
        "client_id": "text",
        "freelancer_id": "text",
        "version": "bigint",
        "last_event_at": "timestamptz",
    }
    tables = """
        CREATE INDEX IF NOT EXISTS clients ON orders (client_id, last_event_at);
        CREATE INDEX IF NOT EXISTS freelancers ON orders (freelancer_id, last_event_at);
    """
    handlers = _SHOWN

    def blank(self, order_id: str) -> Page:
        return Page(Order(id=order_id))

    def before(self, document: Page, event: e.Event) -> None:
        evolve.evolve(document.order, event)

    def row(self, document: Page) -> Fact:
        facts = document.order.facts
        return facts.client_id, facts.freelancer_id, document.order.version, document.order.last_event_at


# --- reading ---

_decode = msgspec.json.Decoder(Page).decode
_MOST_ORDERS = 100
_OF_A_LINE = (
    "order_id", "viewer", "status", "price", "expected_delivery_at", "client_id", "freelancer_id", "open_dispute",
)  # fmt: skip


class NotAParty(Exception):
    """Whoever looks is neither the order's client nor its freelancer."""


def look(
    connection: psycopg.Connection[Any], order_id: str, viewer: str | None, now: datetime
) -> dict[str, Any] | None:
    """The page as `viewer` (a user id; None: an operator) sees it at the business time `now`.

    None where there is no such order. Raises NotAParty, and psycopg.Error.
    """
    row = connection.execute("SELECT document FROM order_page.orders WHERE order_id = %s", (order_id,)).fetchone()
    return None if row is None else view(_decode(row[0]), viewer, now)


def view(page: Page, viewer: str | None, now: datetime) -> dict[str, Any]:
    """See `look`. Applies a deadline that has passed."""
    order = page.order
    role = None if viewer is None else order.find_role(viewer)
    if viewer is not None and role is None:
        raise NotAParty
    order.settle_if_due(now)
    for event in order.collect_events():
        show(page, event)
    facts = order.facts
    return {
        "order_id": order.id,
        "version": order.version,
        "viewer": role,
        "now": format_instant(now),
        "status": order.status,
        "client_id": facts.client_id,
        "freelancer_id": facts.freelancer_id,
        "price": msgspec.to_builtins(facts.price),
        "expected_delivery_at": _instant(order.expected_delivery_at),
        "canceled": page.canceled,
        "refund": _refund(order),
        "open_dispute": _open_dispute(page, role, now),
        "disputes": [_dispute(dispute, role) for dispute in page.disputes],
        "available_actions": {
            party: msgspec.to_builtins(available_actions(order, party, now))
            for party in (Role if role is None else [role])
        },
    }


def _open_dispute(page: Page, role: Role | None, now: datetime) -> dict[str, Any] | None:
    if page.order.open_dispute is None:
        return None
    dispute = page.disputes[-1]
    seconds_left = (dispute.respond_by - now).total_seconds()
    return _dispute(dispute, role) | {"seconds_left": seconds_left}


def _dispute(dispute: Dispute, role: Role | None) -> dict[str, Any]:
    shown = {
        "dispute_id": dispute.dispute_id,
        "kind": dispute.kind,
        "opened_by": dispute.opened_by,
        "opened_at": format_instant(dispute.opened_at),
        "respond_by": format_instant(dispute.respond_by),
        "request": dispute.request,
        "settled_as": dispute.settled_as,
        "settled_at": _instant(dispute.settled_at),
        "message": dispute.message,
        "closed_because": dispute.closed_because,
    }
    if role is Role.FREELANCER and dispute.refund_reason:
        shown["refund_reason"] = dispute.refund_reason  # its author's eyes only (D16)
    return shown


def _refund(order: Order) -> dict[str, Any] | None:
    if order.refund is None:
        return None
    state = "processed" if order.refund_processed else "processing"
    return {"refund_id": order.refund.refund_id, "amount": msgspec.to_builtins(order.refund.amount), "state": state}


def _instant(value: datetime | None) -> str | None:
    return None if value is None else format_instant(value)


def orders_of(connection: psycopg.Connection[Any], user: str, now: datetime) -> list[dict[str, Any]]:
    """A user's orders, the ones that something happened to last first, at most 100. Raises psycopg.Error."""
    rows = connection.execute(
        "SELECT document FROM order_page.orders WHERE client_id = %s OR freelancer_id = %s "
        "ORDER BY last_event_at DESC LIMIT %s",
        (user, user, _MOST_ORDERS),
    )
    pages = (view(_decode(row[0]), user, now) for row in rows)
    return [{name: page[name] for name in _OF_A_LINE} for page in pages]
