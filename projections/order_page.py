"""The order page: facts, the open dispute, the history of disputes, and what each party can do now (R12).

The stored row has what the events say, without texts and confidential fields. Those are sealed in the events, and this
module reads them from there when somebody looks at the page, so that an erasure has to destroy them in one place only.
When somebody looks, this module also applies time: a deadline that has passed changes the page even before its event is
stored (D3).
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, LiteralString, cast

import msgspec
import psycopg
from psycopg.sql import SQL, Composed, Identifier
from resolution_contracts.values import DisputeKind, Role, SettledAs, format_instant

from services.eventstore.database import fetch_row, fetch_value
from services.eventstore.read_events import events_with_texts
from services.orders import Order
from services.orders import events as e
from services.orders.available_actions import available_actions
from services.orders.decide import auto_acceptance
from services.orders.evolve import evolve
from services.orders.guards import must_be_known
from services.sealing.master_keys import MasterKeys

from .framework.paging import Cursor, Part
from .framework.read_model import Fact, Handler, ReadModel


class Dispute(msgspec.Struct):
    """A dispute as the page shows it."""

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
    request: dict[str, Any]
    """What the requester asked for."""
    refund_reason: str | None = None
    """Why the freelancer offers a refund. Confidential (D16)."""
    settled_as: SettledAs | None = None
    """How the dispute was settled, or None if it is open."""
    settled_at: datetime | None = None
    """When the dispute was settled, in business time."""
    message: str | None = None
    """The text of the other party's answer."""
    closed_because: str | None = None
    """Why the dispute was closed without an answer (D11)."""


class Page(msgspec.Struct):
    """The stored document: the order and its disputes, oldest first."""

    order: Order
    disputes: list[Dispute] = []
    canceled: dict[str, Any] | None = None


# --- a handler for each event that changes more than the order's state ---


_REQUEST = ("reason", "days", "amount")
_REQUEST_AS_WRITTEN = ("message", "comment", "reason", "days", "note", "amount", "explanation")


def _request(event: e.DisputeOpened, fields: Iterable[str]) -> dict[str, Any]:
    request = {name: value for name in fields if (value := getattr(event, name)) is not msgspec.UNSET}
    return cast("dict[str, Any]", msgspec.to_builtins(request))


def _opened(page: Page, event: e.DisputeOpened) -> None:
    page.disputes.append(
        Dispute(
            dispute_id=event.dispute_id,
            kind=event.kind,
            opened_by=event.opened_by,
            opened_at=event.timestamp,
            respond_by=event.respond_by,
            request=_request(event, _REQUEST),
        )
    )


def _settled(page: Page, event: e.Settling) -> None:
    dispute = page.disputes[-1]
    dispute.settled_as = e.SETTLED_AS[type(event)]
    dispute.settled_at = event.timestamp
    dispute.closed_because = event.because if isinstance(event, e.DisputeClosed) else None


def _canceled(page: Page, event: e.OrderCanceled) -> None:
    page.canceled = msgspec.to_builtins(
        {
            "initiated_by": event.initiated_by,
            "grounds": event.grounds,
            "dispute_id": event.dispute_id,
            "refund_due": event.refund_due,
            "at": format_instant(event.timestamp),
        }
    )


_HANDLERS: Mapping[type[e.Event], Handler] = {
    e.DisputeOpened: _opened,
    **dict.fromkeys(e.SETTLED_AS, _settled),
    e.OrderCanceled: _canceled,
}


def show(page: Page, event: e.Event) -> None:
    """Applies an event to the page, apart from the order's state."""
    if handler := _HANDLERS.get(type(event)):
        handler(page, event)


def add_texts(page: Page, event: e.Event) -> None:
    """Adds the texts of an event to a page that shows the event already."""
    match event:
        case e.DisputeOpened():
            dispute = _dispute_of(page, event.dispute_id)
            dispute.request = _request(event, _REQUEST_AS_WRITTEN)
            dispute.refund_reason = None if event.refund_reason is msgspec.UNSET else event.refund_reason
            if page.order.open_dispute is not None and page.order.open_dispute.dispute_id == event.dispute_id:
                page.order.open_dispute = event
        case e.Accepted() | e.Declined():
            _dispute_of(page, event.dispute_id).message = event.message
        case e.OrderCanceled() if page.canceled is not None:
            page.canceled["comment"] = event.comment


def _dispute_of(page: Page, dispute_id: str) -> Dispute:
    return next(dispute for dispute in page.disputes if dispute.dispute_id == dispute_id)


class OrderPages(ReadModel[Page]):
    """The read model."""

    name = "order_page"
    version = 1
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
    handlers = _HANDLERS

    def blank(self, order_id: str) -> Page:
        """Returns the page of an order before its first event."""
        return Page(Order(id=order_id))

    def before(self, document: Page, event: e.Event) -> None:
        """Applies the event to the order's state."""
        evolve(document.order, event)

    def row(self, document: Page) -> Fact:
        """Returns the parties, the order's version, and the time of its last event."""
        facts = must_be_known(document.order)
        return facts.client_id, facts.freelancer_id, document.order.version, document.order.last_event_at


# --- reading ---

_decode = msgspec.json.Decoder(Page).decode
MOST_ORDERS = 100
"""The largest number of lines on a page of `orders_of`."""
_LINE_FIELDS = (
    "order_id", "viewer", "status", "price", "expected_delivery_at", "client_id", "freelancer_id", "open_dispute",
)  # fmt: skip


class NotAParty(Exception):
    """The viewer is neither the order's client nor its freelancer."""


def look(
    connection: psycopg.Connection[Any], masters: MasterKeys, order_id: str, viewer: str | None, now: datetime
) -> dict[str, Any] | None:
    """Returns the page as `viewer` sees it at the business time `now`, or None if the order does not exist.

    `viewer` is a user id, or None for an operator. Raises NotAParty, MasterKeyError and psycopg.Error.
    """
    document = fetch_value(connection, "SELECT document FROM order_page.orders WHERE order_id = %s", (order_id,))
    if document is None:
        return None
    with_texts = events_with_texts(connection, masters, [order_id])
    return view(_decode(document), with_texts.get(order_id, []), viewer, now)


def may_see(connection: psycopg.Connection[Any], order_id: str, viewer: str | None) -> bool:
    """Returns whether the order exists and `viewer`, a user id or None for an operator, may see it.

    Raises psycopg.Error.
    """
    query = "SELECT %(viewer)s::text IS NULL OR %(viewer)s IN (client_id, freelancer_id) FROM order_page.orders "
    found = fetch_value(connection, query + "WHERE order_id = %(order)s", {"viewer": viewer, "order": order_id})
    return bool(found)


def view(page: Page, with_texts: Iterable[e.Event], viewer: str | None, now: datetime) -> dict[str, Any]:
    """Adds texts to a page and applies a deadline that has passed. `with_texts` are the order's events with texts.

    Returns and raises what `look` does.
    """
    order = page.order
    role = None if viewer is None else order.role_of(viewer)
    if viewer is not None and role is None:
        raise NotAParty
    for event in with_texts:
        if event.originator_version <= order.version:
            add_texts(page, event)
    for event in auto_acceptance(order, now):
        evolve(order, event)
        show(page, event)
        add_texts(page, event)
    facts = must_be_known(order)
    return {
        "order_id": order.id,
        "version": order.version,
        "viewer": role,
        "now": format_instant(now),
        "status": order.status,
        "client_id": facts.client_id,
        "freelancer_id": facts.freelancer_id,
        "price": msgspec.to_builtins(facts.price),
        "terms": msgspec.to_builtins(order.terms),
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
        shown["refund_reason"] = dispute.refund_reason  # only its author may see it (D16)
    return shown


def _refund(order: Order) -> dict[str, Any] | None:
    if order.refund is None:
        return None
    state = "processed" if order.refund_processed else "processing"
    return {"refund_id": order.refund.refund_id, "amount": msgspec.to_builtins(order.refund.amount), "state": state}


def _instant(value: datetime | None) -> str | None:
    return None if value is None else format_instant(value)


_HALF = SQL(
    "(SELECT {columns} FROM order_page.orders WHERE {party} = %(user)s AND (last_event_at, order_id) < (%(at)s, "
    "%(order_id)s) ORDER BY last_event_at DESC, order_id DESC LIMIT %(limit)s)"
)
_COUNT = (
    "SELECT count(*), count(*) FILTER (WHERE (last_event_at, order_id) >= (%(at)s, %(order_id)s)) "
    "FROM order_page.orders WHERE client_id = %(user)s OR freelancer_id = %(user)s"
)
_NEWEST = Cursor(datetime.max.replace(tzinfo=UTC), "")


def orders_of(
    connection: psycopg.Connection[Any],
    masters: MasterKeys,
    user: str,
    now: datetime,
    after: Cursor | None = None,
    limit: int = MOST_ORDERS,
) -> Part:
    """Returns one database's part of a page of a user's orders, most recently changed first.

    The page starts after the line `after`. Raises MasterKeyError and psycopg.Error.
    """
    where = _where(user, after, limit + 1)
    rows = connection.execute(_page_of("last_event_at, order_id, document"), where).fetchall()
    total, earlier = fetch_row(connection, _COUNT, where)
    with_texts = events_with_texts(connection, masters, [order_id for _, order_id, _ in rows])
    lines = []
    for last_event_at, order_id, document in rows:
        page = view(_decode(document), with_texts.get(order_id, []), user, now)
        lines.append((Cursor(last_event_at, order_id), {name: page[name] for name in _LINE_FIELDS}))
    return Part(lines, total, earlier)


def versions_of(
    connection: psycopg.Connection[Any], user: str, after: Cursor | None = None, limit: int = MOST_ORDERS
) -> list[tuple[str, int]]:
    """Returns id and version of each order on a page of `orders_of`. If the page changes, so do they."""
    rows = connection.execute(_page_of("last_event_at, order_id, version"), _where(user, after, limit))
    return [(order_id, version) for _, order_id, version in rows]


def _where(user: str, after: Cursor | None, limit: int) -> dict[str, Any]:
    at, order_id = after or _NEWEST
    return {"user": user, "at": at, "order_id": order_id, "limit": limit}


def _page_of(columns: LiteralString) -> Composed:
    """Queries the user's orders as client and as freelancer, each half through its own index.

    The halves have no order in common, because nobody is both parties of an order.
    """
    halves = [_HALF.format(columns=SQL(columns), party=Identifier(party)) for party in ("client_id", "freelancer_id")]
    return SQL(" UNION ALL ").join(halves) + SQL(" ORDER BY last_event_at DESC, order_id DESC LIMIT %(limit)s")
