"""The operators' overview: open disputes by kind, coming deadlines, and how the disputes of each day ended."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, ClassVar

import psycopg
from psycopg import Cursor
from psycopg.rows import DictRow
from resolution_contracts.values import DisputeKind, SettledAs, format_instant

from services.eventstore.database import fetch_value
from services.orders import events as e

from .framework import known_order
from .framework.known_order import KnownOrder
from .framework.read_model import Fact, Handler, ReadModel

_AHEAD_HOURS = (1, 6, 24, 48)
_DAYS = 30


def _settled(order: KnownOrder, event: e.Settling) -> Fact:
    assert order.dispute is not None
    fact = (event.timestamp.date(), order.dispute.kind, e.SETTLED_AS[type(event)])
    known_order.settled(order, event)
    return fact


class Overview(ReadModel[KnownOrder]):
    """The read model: open disputes, and counts by the UTC day on which they were settled."""

    name = "overview"
    version = 1
    document = KnownOrder
    columns = {"kind": "text", "respond_by": "timestamptz"}  # noqa: RUF012
    tables = """
        CREATE INDEX IF NOT EXISTS open ON orders (respond_by) WHERE respond_by IS NOT NULL;
        CREATE TABLE IF NOT EXISTS days (
            day date, kind text, settled_as text, disputes bigint NOT NULL, PRIMARY KEY (day, kind, settled_as)
        )
    """
    compared = ("orders", "days")
    handlers: ClassVar[Mapping[type[e.Event], Handler]] = {
        e.OrderRegistered: known_order.registered,
        e.DisputeOpened: known_order.opened,
        **dict.fromkeys(e.SETTLED_AS, _settled),
    }

    def row(self, document: KnownOrder) -> Fact:
        """Returns the kind and the deadline of the open dispute, or twice None."""
        dispute = document.dispute
        return (dispute.kind, dispute.respond_by) if dispute else (None, None)

    def tally(self, cursor: Cursor[DictRow], facts: Sequence[Fact]) -> None:
        """Adds the disputes that ended to the counts of each day."""
        counts = sorted(Counter(facts).items())
        rows = [(*fact, count) for fact, count in counts]
        cursor.execute(
            "INSERT INTO days SELECT * FROM unnest(%s::date[], %s::text[], %s::text[], %s::bigint[]) "
            "ON CONFLICT (day, kind, settled_as) DO UPDATE SET disputes = days.disputes + excluded.disputes",
            [list(column) for column in zip(*rows, strict=True)],
        )


def look(connection: psycopg.Connection[Any], now: datetime) -> dict[str, Any]:
    """Returns one database's overview at the business time `now`. Raises psycopg.Error."""
    by_kind = dict(
        connection.execute(
            "SELECT kind, count(*) FROM overview.orders WHERE respond_by > %s GROUP BY kind", (now,)
        ).fetchall()
    )
    return {
        "now": format_instant(now),
        "open_by_kind": {str(kind): by_kind.get(str(kind), 0) for kind in DisputeKind},
        "due_within_hours": {str(hours): _due(connection, now, now + timedelta(hours=hours)) for hours in _AHEAD_HOURS},
        "overdue": _due(connection, None, now),
        "days": _days(connection),
    }


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merges the overviews of all shards into one."""
    by_day: dict[str, Counter[str]] = {}
    for day in chain.from_iterable(part["days"] for part in parts):
        by_day.setdefault(day["day"], Counter()).update(day["settled"])
    return parts[0] | {
        "open_by_kind": _sums([part["open_by_kind"] for part in parts]),
        "due_within_hours": _sums([part["due_within_hours"] for part in parts]),
        "overdue": sum(part["overdue"] for part in parts),
        "days": [_day(day, dict(settled)) for day, settled in sorted(by_day.items(), reverse=True)[:_DAYS]],
    }


def _sums(parts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def _due(connection: psycopg.Connection[Any], after: datetime | None, up_to: datetime) -> int:
    """Returns how many disputes have their deadline after `after` (None: no limit) and at or before `up_to`."""
    query = (
        "SELECT count(*) FROM overview.orders "
        "WHERE respond_by > coalesce(%s::timestamptz, '-infinity') AND respond_by <= %s"
    )
    return int(fetch_value(connection, query, (after, up_to)))


def _days(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Returns the last days on which disputes ended, newest first."""
    rows = connection.execute(
        "SELECT day, jsonb_object_agg(settled_as, n) "
        "FROM (SELECT day, settled_as, sum(disputes) AS n FROM overview.days GROUP BY 1, 2) AS by_day "
        "GROUP BY day ORDER BY day DESC LIMIT %s",
        (_DAYS,),
    )
    return [_day(day.isoformat(), settled) for day, settled in rows]


def _day(day: str, settled: dict[str, int]) -> dict[str, Any]:
    rate = settled.get(SettledAs.AUTO_ACCEPTED, 0) / sum(settled.values())
    return {"day": day, "settled": settled, "auto_accept_rate": rate}
