"""The timer's deadlines in PostgreSQL, where a restart does not lose them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row, tuple_row

from services.eventstore.database import fetch_row_async


@dataclass(frozen=True)
class Deadline:
    """The deadline of an open dispute."""

    order_id: str
    """The dispute's order."""
    dispute_id: str
    """The dispute."""
    due_at: datetime
    """The deadline, in business time."""
    ask_at: datetime
    """When to publish `ExpireDispute` next, in real time."""
    attempts: int = 0
    """How often the timer has published it already."""


# A transaction that writes many rows takes this lock first. Without it, two transactions that lock the same rows in
# different orders would deadlock.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('deadlines', 0))"


class Deadlines:
    """The table `deadlines`. All methods raise psycopg.Error."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def record(
        self,
        opened: Sequence[Deadline],
        settled: Sequence[tuple[str, str]],
        positions: dict[int, tuple[int, int]],
    ) -> None:
        """Adds and removes deadlines and updates the timer's stored positions, in one transaction.

        `settled`: order id and dispute id. `positions`: by partition, the expected position and the new one.
        """
        expected, after = zip(*positions.values(), strict=True)
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await cursor.execute(
                "SELECT advance_positions('timer', %s::int[], %s::bigint[], %s::bigint[])",
                (list(positions), list(expected), list(after)),
            )
            await cursor.execute(_LOCK)
            await cursor.execute(
                "INSERT INTO deadlines (order_id, dispute_id, due_at, ask_at) "
                "SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[]) "
                "ON CONFLICT DO NOTHING",
                (
                    [deadline.order_id for deadline in opened],
                    [deadline.dispute_id for deadline in opened],
                    [deadline.due_at for deadline in opened],
                    [deadline.ask_at for deadline in opened],
                ),
            )
            await cursor.execute(
                "DELETE FROM deadlines USING unnest(%s::text[], %s::text[]) AS s (order_id, dispute_id) "
                "WHERE deadlines.order_id = s.order_id AND deadlines.dispute_id = s.dispute_id",
                ([order_id for order_id, _ in settled], [dispute_id for _, dispute_id in settled]),
            )

    async def due(self, now: datetime, limit: int) -> list[Deadline]:
        """Returns at most `limit` deadlines whose `ask_at` is reached at the real time `now`, earliest first."""
        async with self._connection.cursor(row_factory=class_row(Deadline)) as cursor:
            await cursor.execute(
                "SELECT order_id, dispute_id, due_at, ask_at, attempts FROM deadlines "
                "WHERE ask_at <= %s ORDER BY ask_at LIMIT %s",
                (now, limit),
            )
            return await cursor.fetchall()

    async def next_ask(self) -> datetime | None:
        """Returns the earliest `ask_at`, or None if there is no deadline."""
        ask_at: datetime | None
        [ask_at] = await fetch_row_async(self._connection, "SELECT min(ask_at) FROM deadlines")
        return ask_at

    async def judged(self) -> dict[int, int]:
        """Returns the next offset of the commands role on the topic that there is now, by partition."""
        async with self._connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute("SELECT partition, next_offset - base FROM positions WHERE consumer = 'commands'")
            return dict(await cursor.fetchall())

    async def asked(self, deadlines: Sequence[Deadline], ask_again_at: Sequence[datetime]) -> None:
        """Notes that the timer has published `ExpireDispute` for these, and when to publish it again."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await cursor.execute(_LOCK)
            await cursor.execute(
                "UPDATE deadlines SET attempts = a.attempts, ask_at = a.ask_at "
                "FROM unnest(%s::text[], %s::text[], %s::int[], %s::timestamptz[]) "
                "AS a (order_id, dispute_id, attempts, ask_at) "
                "WHERE deadlines.order_id = a.order_id AND deadlines.dispute_id = a.dispute_id",
                (
                    [deadline.order_id for deadline in deadlines],
                    [deadline.dispute_id for deadline in deadlines],
                    [deadline.attempts + 1 for deadline in deadlines],
                    list(ask_again_at),
                ),
            )
