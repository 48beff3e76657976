"""The months of `outcomes`: each has a table of its own, and old ones are retired whole.

An index of each month keeps a command id from being used twice in it. A command id of an earlier month is looked up,
for the orders that have one: those that began before the month did. Of retired months the events are left, and each
tells the command that it follows from: what changed an order is recognised for ever.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Identifier

from services.eventstore.database import fetch_row, fetch_value, lock_held

_KEEPING = "hashtextextended('outcome_months', 0)"
_LOCK_TIMEOUT = "1s"


class MonthBegan(Exception):
    """A batch was judged for another month than the one that its outcomes belong in. Nothing was written."""


class Months(msgspec.Struct, frozen=True):
    """The newest month (its first day, UTC), and whether there were any before it."""

    newest: date
    others: bool


class Retired(msgspec.Struct, frozen=True):
    """The last outcome that was retired, and the last event before its end; 0 where none was."""

    outcome_id: int = 0
    event_id: int = 0


RETIRED = "SELECT coalesce(max(last_outcome_id), 0), coalesce(max(last_event_id), 0) FROM outcome_months"
"""SQL: the fields of `Retired`."""


def begun_months(connection: psycopg.Connection[Any]) -> Months:
    """What is appended from now on belongs in the newest, which is begun where it was not there yet.

    To be committed. Raises psycopg.Error.
    """
    fetch_value(connection, "SELECT append_month()")
    return Months(*fetch_row(connection, "SELECT max(month), count(*) > 1 FROM outcome_months"))


def read_retired(connection: psycopg.Connection[Any]) -> Retired:
    """Raises psycopg.Error."""
    return Retired(*fetch_row(connection, RETIRED))


# --- old months ---


class Month(msgspec.Struct, frozen=True):
    """What there is of a month."""

    month: date
    outcomes: int
    """How many."""
    last_outcome_id: int
    offsets: dict[int, int]
    """By partition, the last of its commands' offsets."""


class MonthInUse(Exception):
    """Somebody reads the outcomes all the while: a verification, or a dump."""


def months_before(connection: psycopg.Connection[Any], months: int) -> list[date]:
    """Those not retired yet that ended so many months ago or earlier, the first one first. Raises psycopg.Error."""
    rows = connection.execute(
        "SELECT month FROM outcome_months WHERE retired_at IS NULL AND month + make_interval(months => %s) <= "
        "date_trunc('month', now() AT TIME ZONE 'UTC') ORDER BY month",
        (months + 1,),
    )
    return [month for (month,) in rows]


def month_of(connection: psycopg.Connection[Any], month: date) -> Month:
    """Reads all of it. Raises psycopg.Error."""
    rows = connection.execute(
        "SELECT partition, max(record_offset), max(outcome_id), count(*) FROM outcomes WHERE month = %s GROUP BY 1",
        (month,),
    ).fetchall()
    offsets = {partition: offset for partition, offset, _, _ in rows}
    return Month(month, sum(row[3] for row in rows), max((row[2] for row in rows), default=0), offsets)


def month_of_outcome(
    connection: psycopg.Connection[Any], order_id: str, command_id: str, message: bytes
) -> date | None:
    """The first month with this outcome of a command. Raises psycopg.Error."""
    month: date | None = fetch_value(
        connection,
        "SELECT min(month) FROM outcomes WHERE order_id = %s AND command_id = %s AND message = %s",
        (order_id, command_id, message),
    )
    return month


def month_of_letter(connection: psycopg.Connection[Any], partition: int, offset: int) -> date | None:
    """The month of a dead letter. Raises psycopg.Error."""
    month: date | None = fetch_value(
        connection,
        "SELECT month FROM outcomes WHERE kind = 'dead' AND partition = %s AND record_offset = %s",
        (partition, offset),
    )
    return month


def has_later(connection: psycopg.Connection[Any], month: date) -> bool:
    """Whether anything was judged after a month. Raises psycopg.Error."""
    return bool(fetch_value(connection, "SELECT EXISTS (SELECT FROM outcomes WHERE month > %s)", (month,)))


def letters_in_hand(connection: psycopg.Connection[Any], month: date, months: int) -> int:
    """Dead letters of a month that nobody has handled, or within the last `months` only: a record that was sent again
    with the time of the first is compared with it. Raises psycopg.Error."""
    found = fetch_value(
        connection,
        "SELECT count(*) FROM outcomes LEFT JOIN handled_dead_letters USING (partition, record_offset) "
        "WHERE kind = 'dead' AND month = %s AND (handled_at IS NULL OR handled_at + make_interval(months => %s) > "
        "date_trunc('month', now() AT TIME ZONE 'UTC'))",
        (month, months),
    )
    return int(found)


def orders_of(connection: psycopg.Connection[Any], month: date) -> Iterator[tuple[str, int]]:
    """Orders with commands in a month, and the partition of those. Raises psycopg.Error."""
    with connection.transaction(), connection.cursor("orders", row_factory=tuple_row) as cursor:
        cursor.itersize = 10_000
        cursor.execute(
            "SELECT DISTINCT order_id, partition FROM outcomes WHERE month = %s AND kind <> 'dead'", (month,)
        )
        yield from cursor


def retire_month(connection: psycopg.Connection[Any], month: date) -> None:
    """Drops a month, and notes up to where outcomes are gone. `connection` commits by itself, as the tables' owner.

    Raises MonthInUse, and then nothing has changed; and psycopg.Error.
    """
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
        if not fetch_value(connection, f"SELECT pg_try_advisory_xact_lock({_KEEPING})"):
            raise MonthInUse
        connection.execute(
            "DELETE FROM handled_dead_letters AS h USING outcomes AS o WHERE o.month = %s AND o.kind = 'dead' "
            "AND (h.partition, h.record_offset) = (o.partition, o.record_offset)",
            (month,),
        )
        connection.execute(
            "UPDATE outcome_months AS m SET retired_at = now(), (last_outcome_id, last_event_id) = "
            "(SELECT max(outcome_id), max(o.last_event_id) FROM outcomes AS o WHERE o.month = m.month) "
            "WHERE month = %s",
            (month,),
        )
        try:
            connection.execute(SQL("DROP TABLE {}").format(Identifier(f"outcomes_{month:%Y_%m}")))
        except psycopg.errors.LockNotAvailable:
            raise MonthInUse from None


@contextmanager
def months_kept(url: str) -> Iterator[None]:
    """No month is retired meanwhile. Raises psycopg.Error."""
    with lock_held(url, f"SELECT pg_advisory_xact_lock_shared({_KEEPING})"):
        yield
