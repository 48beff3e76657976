"""The reminders that are due at parts of the time to answer. `send_reminders.py` sends each once."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar

from psycopg import Cursor
from psycopg.rows import DictRow

from services.orders import events as e
from services.orders.reminders import NAMES, due_at

from .framework import known_order
from .framework.known_order import KnownOrder
from .framework.read_model import Fact, Handler, ReadModel


def _opened(order: KnownOrder, event: e.DisputeOpened) -> Fact:
    known_order.opened(order, event)
    role = event.opened_by.other
    recipient = order.party(role)
    return event.dispute_id, order.order_id, event.kind, role, recipient, event.timestamp, event.respond_by


def _settled(order: KnownOrder, event: e.Event) -> Fact:
    assert order.dispute is not None
    dispute_id = order.dispute.dispute_id
    known_order.settled(order, event)
    return (order.order_id, dispute_id)


class Reminders(ReadModel[KnownOrder]):
    """The read model: two reminders for each open dispute. A reminder is deleted when it was sent."""

    name = "reminders"
    version = 1
    document = KnownOrder
    tables = """
        CREATE TABLE IF NOT EXISTS due (
            order_id   text        NOT NULL,
            dispute_id text        NOT NULL,
            hours      integer     NOT NULL,  -- which reminder: services/orders/reminders.py
            at         timestamptz NOT NULL,  -- business time
            kind       text        NOT NULL,
            role       text        NOT NULL,
            recipient  text        NOT NULL,
            respond_by timestamptz NOT NULL,
            PRIMARY KEY (order_id, dispute_id, hours)
        );
        CREATE INDEX IF NOT EXISTS due_at ON due (at);
    """
    handlers: ClassVar[Mapping[type[e.Event], Handler]] = {
        e.OrderRegistered: known_order.registered,
        e.DisputeOpened: _opened,
        **dict.fromkeys(known_order.SETTLEMENTS, _settled),
    }

    def tally(self, cursor: Cursor[DictRow], facts: Sequence[Fact]) -> None:
        """Adds the reminders of disputes that opened, and deletes those of disputes that ended."""
        settled = {fact for fact in facts if len(fact) == 2}
        if settled:
            cursor.execute(
                "DELETE FROM due USING unnest(%s::text[], %s::text[]) AS settled (order_id, dispute_id) "
                "WHERE due.order_id = settled.order_id AND due.dispute_id = settled.dispute_id",
                [list(column) for column in zip(*settled, strict=True)],
            )
        opened = (fact for fact in facts if len(fact) > 2)
        rows = [
            (order_id, dispute_id, number, due_at(number, opened_at, respond_by), kind, role, recipient, respond_by)
            for dispute_id, order_id, kind, role, recipient, opened_at, respond_by in opened
            if (order_id, dispute_id) not in settled
            for number in NAMES
        ]
        if rows:
            cursor.execute(
                "INSERT INTO due (order_id, dispute_id, hours, at, kind, role, recipient, respond_by) "
                "SELECT * FROM unnest(%s::text[], %s::text[], %s::int[], %s::timestamptz[], %s::text[], %s::text[], "
                "%s::text[], %s::timestamptz[])",
                [list(column) for column in zip(*rows, strict=True)],
            )

    def pass_time(self, cursor: Cursor[DictRow], now: datetime) -> None:
        """Deletes the reminders that were due by then, because the live read model had sent them."""
        cursor.execute("DELETE FROM due WHERE at <= %s", (now,))
