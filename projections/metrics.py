"""Metrics of parties: cancellations that count (D15), response rate, time to answer, refunds (never count, R9)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any, ClassVar

import msgspec
import psycopg
from psycopg import Cursor
from psycopg.rows import DictRow
from resolution_contracts.values import Role

from services.orders import events as e

from .framework import known_order
from .framework.known_order import KnownOrder
from .framework.read_model import Fact, Handler, ReadModel


class _Tally(msgspec.Struct):
    """What one event adds to one party's counts."""

    orders: int = 0
    """Registered orders."""
    received: int = 0
    """Requests that the party had to answer."""
    answered: int = 0
    """Requests that the party answered."""
    ran_out: int = 0
    """Disputes that nobody answered until the deadline."""
    microseconds_to_answer: int = 0
    """The sum of all times to answer. A whole number, so that the sum does not depend on the order of adding."""
    cancellations: dict[str, int] = {}
    """Cancellations that count, by grounds."""
    not_counted: dict[str, int] = {}
    """Cancellations that do not count, by grounds."""
    refunds: dict[str, list[int]] = {}
    """The number of refunds and their sum in minor units, by currency."""

    def add(self, other: "_Tally") -> None:
        self.orders += other.orders
        self.received += other.received
        self.answered += other.answered
        self.ran_out += other.ran_out
        self.microseconds_to_answer += other.microseconds_to_answer
        for mine, theirs in ((self.cancellations, other.cancellations), (self.not_counted, other.not_counted)):
            for grounds, count in theirs.items():
                mine[grounds] = mine.get(grounds, 0) + count
        for currency, (count, amount) in other.refunds.items():
            before = self.refunds.get(currency, [0, 0])
            self.refunds[currency] = [before[0] + count, before[1] + amount]


def _registered(order: KnownOrder, event: e.OrderRegistered) -> Fact:
    known_order.registered(order, event)
    return _for_both(order, _Tally(orders=1))


def _opened(order: KnownOrder, event: e.DisputeOpened) -> Fact:
    known_order.opened(order, event)
    return _for_answerer(order, _Tally(received=1))


def _answered(order: KnownOrder, event: e.Accepted | e.Declined) -> Fact:
    assert order.dispute is not None
    microseconds = (event.timestamp - order.dispute.opened_at) // timedelta(microseconds=1)
    fact = _for_answerer(order, _Tally(answered=1, microseconds_to_answer=microseconds))
    known_order.settled(order, event)
    return fact


def _ran_out(order: KnownOrder, event: e.AutoAccepted) -> Fact:
    fact = _for_answerer(order, _Tally(ran_out=1))
    known_order.settled(order, event)
    return fact


def _canceled(order: KnownOrder, event: e.OrderCanceled) -> Fact:
    count = {str(event.grounds): 1}
    return _for_both(order, _Tally(cancellations=count) if event.affects_metrics else _Tally(not_counted=count))


def _refunded(order: KnownOrder, event: e.PartialRefundGranted) -> Fact:
    return _for_both(order, _Tally(refunds={event.amount.currency: [1, event.amount.amount]}))


def _for_both(order: KnownOrder, tally: _Tally) -> Fact:
    return ((Role.CLIENT, order.client_id), (Role.FREELANCER, order.freelancer_id)), tally


def _for_answerer(order: KnownOrder, tally: _Tally) -> Fact:
    assert order.dispute is not None
    role = order.dispute.opened_by.other
    return ((role, order.party(role)),), tally


class Metrics(ReadModel[KnownOrder]):
    """The read model: the counts of each user, as a client and as a freelancer."""

    name = "metrics"
    version = 1
    document = KnownOrder
    tables = """
        CREATE TABLE IF NOT EXISTS parties (
            role text, user_id text, counts bytea NOT NULL, PRIMARY KEY (role, user_id)
        )
    """
    compared = ("orders", "parties")
    handlers: ClassVar[Mapping[type[e.Event], Handler]] = {
        e.OrderRegistered: _registered,
        e.DisputeOpened: _opened,
        e.Accepted: _answered,
        e.Declined: _answered,
        e.AutoAccepted: _ran_out,
        e.Withdrawn: known_order.settled,
        e.DisputeClosed: known_order.settled,
        e.OrderCanceled: _canceled,
        e.PartialRefundGranted: _refunded,
    }

    def tally(self, cursor: Cursor[DictRow], facts: Sequence[Fact]) -> None:
        """Adds the facts to the counts of each party and role."""
        added: defaultdict[tuple[str, str], _Tally] = defaultdict(_Tally)
        for parties, tally in facts:
            for party in parties:
                added[party].add(tally)
        parties = list(added)
        cursor.execute(
            "SELECT role, user_id, counts FROM parties JOIN unnest(%s::text[], %s::text[]) AS asked (role, user_id) "
            "USING (role, user_id)",
            ([role for role, _ in parties], [user for _, user in parties]),
        )
        for row in cursor:
            added[Role(row["role"]), row["user_id"]].add(_decode(row["counts"]))
        cursor.execute(
            "INSERT INTO parties SELECT * FROM unnest(%s::text[], %s::text[], %s::bytea[]) "
            "ON CONFLICT (role, user_id) DO UPDATE SET counts = excluded.counts",
            (
                [role for role, _ in parties],
                [user for _, user in parties],
                [_encode(added[party]) for party in parties],
            ),
        )


_decode = msgspec.json.Decoder(_Tally).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def look(connection: psycopg.Connection[Any], user: str) -> dict[str, Any]:
    """Returns a user's metrics, as client and as freelancer. None for a role that the user never had.

    Raises psycopg.Error.
    """
    return view(user, [counts_of(connection, user)])


def counts_of(connection: psycopg.Connection[Any], user: str) -> dict[str, _Tally]:
    """Returns a user's counts in one shard, by role. Raises psycopg.Error."""
    rows = connection.execute("SELECT role, counts FROM metrics.parties WHERE user_id = %s", (user,))
    return {role: _decode(counts) for role, counts in rows}


def view(user: str, parts: Sequence[dict[str, _Tally]]) -> dict[str, Any]:
    """Makes the metrics from the counts of all shards. See `look`."""
    sums: dict[str, _Tally] = {}
    for role, counts in chain.from_iterable(part.items() for part in parts):
        sums.setdefault(role, _Tally()).add(counts)
    by_role = {role: _view(counts) for role, counts in sums.items()}
    return {"user": user, **{str(role): by_role.get(str(role)) for role in Role}}


def _view(counts: _Tally) -> dict[str, Any]:
    due = counts.answered + counts.ran_out
    return {
        "orders": counts.orders,
        "cancellations": {"count": sum(counts.cancellations.values()), "by_grounds": counts.cancellations},
        "cancellations_not_counted": {"count": sum(counts.not_counted.values()), "by_grounds": counts.not_counted},
        "disputes_received": counts.received,
        "answered_in_time": counts.answered,
        "ran_out": counts.ran_out,
        "response_rate": counts.answered / due if due else None,
        "average_seconds_to_answer": counts.microseconds_to_answer / counts.answered / 1e6 if counts.answered else None,
        "refunds_granted": [
            {"currency": currency, "count": count, "amount": amount}
            for currency, (count, amount) in sorted(counts.refunds.items())
        ],
    }
