"""The inbox of a party: what waits for its answer, soonest deadline first, and what it waits for itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, ClassVar

import msgspec
import psycopg
from psycopg.sql import SQL, Identifier, Literal
from resolution_contracts.values import format_instant

from services.orders import events as e

from .known_order import HANDLERS, KnownOrder
from .read_model import Fact, Handler, ReadModel


class Inbox(ReadModel[KnownOrder]):
    """The read model."""

    name = "inbox"
    document = KnownOrder
    columns = {"answerer": "text", "asker": "text", "respond_by": "timestamptz"}  # noqa: RUF012
    tables = """
        CREATE INDEX IF NOT EXISTS answerers ON orders (answerer, respond_by) WHERE answerer IS NOT NULL;
        CREATE INDEX IF NOT EXISTS askers ON orders (asker, respond_by) WHERE asker IS NOT NULL;
    """
    handlers: ClassVar[Mapping[type[e.Event], Handler]] = HANDLERS

    def row(self, document: KnownOrder) -> Fact:
        respond_by = document.dispute and document.dispute.respond_by
        return document.answerer, document.asker, respond_by


_MOST = 200
_decode = msgspec.json.Decoder(KnownOrder).decode


def look(connection: psycopg.Connection[Any], user: str, now: datetime) -> dict[str, Any]:
    """A user's inbox at the business time `now`; at most 200 disputes of each kind. Raises psycopg.Error.

    A dispute whose deadline has passed is gone, even before its event is stored (D3).
    """
    return {
        "user": user,
        "now": format_instant(now),
        "to_answer": _waiting(connection, "answerer", user, now),
        "awaiting_answer": _waiting(connection, "asker", user, now),
    }


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One inbox from those that the shards have of a user."""
    lists = {
        name: sorted(chain.from_iterable(part[name] for part in parts), key=lambda line: line["respond_by"])[:_MOST]
        for name in ("to_answer", "awaiting_answer")
    }
    return parts[0] | lists


def _waiting(connection: psycopg.Connection[Any], column: str, user: str, now: datetime) -> list[dict[str, Any]]:
    query = SQL(
        "SELECT document FROM inbox.orders WHERE {} = %s AND respond_by > %s ORDER BY respond_by LIMIT {}"
    ).format(Identifier(column), Literal(_MOST))
    return [_line(_decode(row[0]), now) for row in connection.execute(query, (user, now))]


def _line(order: KnownOrder, now: datetime) -> dict[str, Any]:
    dispute = order.dispute
    assert dispute is not None
    return {
        "order_id": order.order_id,
        "dispute_id": dispute.dispute_id,
        "kind": dispute.kind,
        "opened_by": dispute.opened_by,
        "other_party": order.party(dispute.opened_by),
        "opened_at": format_instant(dispute.opened_at),
        "respond_by": format_instant(dispute.respond_by),
        "seconds_left": (dispute.respond_by - now).total_seconds(),
    }
