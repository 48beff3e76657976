"""The deadlines that the timer keeps in PostgreSQL, so that a restart loses none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from services.eventstore.database import fetch_row_async


@dataclass(frozen=True)
class Deadline:
    """An open dispute. `due_at` is business time; `ask_at` the real time at which to ask the order (again)."""

    order_id: str
    dispute_id: str
    due_at: datetime
    ask_at: datetime
    attempts: int = 0


# Whoever writes many rows takes it first, until the end of the transaction: two that lock the same rows in different
# orders would wait for each other.
_TURN = "SELECT pg_advisory_xact_lock(hashtextextended('deadlines', 0))"


class Deadlines:
    """The table `deadlines`. Raises psycopg.Error."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def record(
        self,
        opened: Sequence[Deadline],
        settled: Sequence[tuple[str, str]],
        positions: dict[int, tuple[int, int]],
    ) -> None:
        """Adds and removes deadlines and moves the timer's positions on, in one transaction."""
        expected, after = zip(*positions.values(), strict=True)
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await cursor.execute(
                "SELECT advance_positions('timer', %s::int[], %s::bigint[], %s::bigint[])",
                (list(positions), list(expected), list(after)),
            )
            await cursor.execute(_TURN)
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
        """Those to ask about at a real instant, the most overdue first."""
        async with self._connection.cursor(row_factory=class_row(Deadline)) as cursor:
            await cursor.execute(
                "SELECT order_id, dispute_id, due_at, ask_at, attempts FROM deadlines "
                "WHERE ask_at <= %s ORDER BY ask_at LIMIT %s",
                (now, limit),
            )
            return await cursor.fetchall()

    async def next_ask(self) -> datetime | None:
        """The real instant of the next one."""
        ask_at: datetime | None
        [ask_at] = await fetch_row_async(self._connection, "SELECT min(ask_at) FROM deadlines")
        return ask_at

    async def asked(self, deadlines: Sequence[Deadline], ask_again_at: Sequence[datetime]) -> None:
        """Notes that these were asked about, and when to ask again if nothing comes of it."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await cursor.execute(_TURN)
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
