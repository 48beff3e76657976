"""The inbox of a party: the requests that it has to answer, and its own open requests. Soonest deadline first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import msgspec
import psycopg
from psycopg.sql import SQL, Identifier
from resolution_contracts.values import format_instant

from services.eventstore.database import fetch_row
from services.orders import events as e

from .framework import paging
from .framework.known_order import HANDLERS, KnownOrder
from .framework.paging import Cursor, Page, Part
from .framework.read_model import Fact, Handler, ReadModel


class Inbox(ReadModel[KnownOrder]):
    """The read model."""

    name = "inbox"
    version = 1
    document = KnownOrder
    columns = {"answerer": "text", "asker": "text", "respond_by": "timestamptz"}  # noqa: RUF012
    tables = """
        CREATE INDEX IF NOT EXISTS answerers ON orders (answerer, respond_by) WHERE answerer IS NOT NULL;
        CREATE INDEX IF NOT EXISTS askers ON orders (asker, respond_by) WHERE asker IS NOT NULL;
    """
    handlers: ClassVar[Mapping[type[e.Event], Handler]] = HANDLERS

    def row(self, document: KnownOrder) -> Fact:
        """Returns who has to answer, who waits for the answer, and the deadline."""
        respond_by = document.dispute and document.dispute.respond_by
        return document.answerer, document.asker, respond_by


MOST_LINES = 200
"""The largest number of lines on a page of either list."""
LISTS = {"to_answer": "answerer", "awaiting_answer": "asker"}
"""The lists of an inbox. For each, the column with the user id of the inbox that a dispute is in."""
_decode = msgspec.json.Decoder(KnownOrder).decode
_PAGE = SQL(
    "SELECT document FROM inbox.orders WHERE {} = %(user)s AND respond_by > %(now)s "
    "AND (respond_by, order_id) > (%(at)s, %(order_id)s) ORDER BY respond_by, order_id LIMIT %(limit)s"
)
_COUNT = SQL(
    "SELECT count(*), count(*) FILTER (WHERE (respond_by, order_id) <= (%(at)s, %(order_id)s)) "
    "FROM inbox.orders WHERE {} = %(user)s AND respond_by > %(now)s"
)


def look(
    connection: psycopg.Connection[Any],
    user: str,
    now: datetime,
    after: Mapping[str, Cursor | None] | None = None,
    limit: int = MOST_LINES,
) -> dict[str, Part]:
    """Returns one database's part of a user's inbox at the business time `now`. Raises psycopg.Error.

    `after` has for each list the line after which its page starts, or None for the first page.

    A dispute whose deadline has passed is left out, even before its event is stored (D3).
    """
    begins = after or {}
    return {name: _waiting(connection, column, user, now, begins.get(name), limit) for name, column in LISTS.items()}


@dataclass(frozen=True)
class View:
    """A page of each list of a user's inbox."""

    user: str
    now: str
    lists: dict[str, Page]

    def as_json(self) -> dict[str, Any]:
        """Returns the inbox as the API returns it."""
        return {
            "user": self.user,
            "now": self.now,
            **{name: page.lines for name, page in self.lists.items()},
            "totals": {name: page.total for name, page in self.lists.items()},
            "next": {name: page.next for name, page in self.lists.items()},
        }


def merged(parts: Sequence[dict[str, Part]], user: str, now: datetime, limit: int = MOST_LINES) -> View:
    """Merges the parts of all shards into one inbox."""
    lists = {name: paging.merged([part[name] for part in parts], limit) for name in LISTS}
    return View(user, format_instant(now), lists)


def _waiting(
    connection: psycopg.Connection[Any], column: str, user: str, now: datetime, after: Cursor | None, limit: int
) -> Part:
    at, order_id = max(after or Cursor(now, ""), Cursor(now, ""))
    where = {"user": user, "now": now, "at": at, "order_id": order_id, "limit": limit + 1}
    rows = connection.execute(_PAGE.format(Identifier(column)), where).fetchall()
    total, earlier = fetch_row(connection, _COUNT.format(Identifier(column)), where)
    return Part([_line(_decode(document), now) for (document,) in rows], total, earlier)


def _line(order: KnownOrder, now: datetime) -> tuple[Cursor, dict[str, Any]]:
    dispute = order.dispute
    assert dispute is not None
    return Cursor(dispute.respond_by, order.order_id), {
        "order_id": order.order_id,
        "dispute_id": dispute.dispute_id,
        "kind": dispute.kind,
        "opened_by": dispute.opened_by,
        "other_party": order.party(dispute.opened_by),
        "opened_at": format_instant(dispute.opened_at),
        "respond_by": format_instant(dispute.respond_by),
        "seconds_left": (dispute.respond_by - now).total_seconds(),
    }
