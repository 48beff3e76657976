"""The months of the table `outcomes`: each has a table of its own, and is retired as a whole.

Each month's index keeps command ids unique within the month. The commands role looks up ids of earlier months for the
orders that have commands of earlier months. When a month is retired, its events stay, and each has its command's id. So
a repeat of a command that changed an order is recognised for ever.
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
    """A month has begun since the batch was judged. Nothing was written."""


class Months(msgspec.Struct, frozen=True):
    """The newest month (its first day, in UTC), and whether there are earlier ones."""

    newest: date
    others: bool


class Retired(msgspec.Struct, frozen=True):
    """The last outcome that was retired, and its last event. Both are 0 if no outcome was retired."""

    outcome_id: int = 0
    event_id: int = 0


RETIRED = "SELECT coalesce(max(last_outcome_id), 0), coalesce(max(last_event_id), 0) FROM outcome_months"
"""SQL: the fields of `Retired`."""


def begun_months(connection: psycopg.Connection[Any]) -> Months:
    """Begins the current month, unless it has begun, and returns the months. Raises psycopg.Error.

    The caller has to commit.
    """
    fetch_value(connection, "SELECT append_month()")
    return Months(*fetch_row(connection, "SELECT max(month), count(*) > 1 FROM outcome_months"))


def read_retired(connection: psycopg.Connection[Any]) -> Retired:
    """Returns up to where outcomes are retired. Raises psycopg.Error."""
    return Retired(*fetch_row(connection, RETIRED))


# --- old months ---


class Month(msgspec.Struct, frozen=True):
    """The content of a month."""

    month: date
    """Its first day."""
    outcomes: int
    """How many outcomes it has."""
    last_outcome_id: int
    """The number of its last outcome."""
    offsets: dict[int, int]
    """The offset of its last record, by partition."""


class MonthInUse(Exception):
    """A verification or a dump is reading the outcomes."""


def months_before(connection: psycopg.Connection[Any], months: int) -> list[date]:
    """Returns the months that ended `months` months ago or earlier, without retired ones, oldest first.

    Raises psycopg.Error.
    """
    rows = connection.execute(
        "SELECT month FROM outcome_months WHERE retired_at IS NULL AND month + make_interval(months => %s) <= "
        "date_trunc('month', now() AT TIME ZONE 'UTC') ORDER BY month",
        (months + 1,),
    )
    return [month for (month,) in rows]


def month_of(connection: psycopg.Connection[Any], month: date) -> Month:
    """Returns the content of a month. Reads all its rows. Raises psycopg.Error."""
    rows = connection.execute(
        "SELECT partition, max(record_offset), max(outcome_id), count(*) FROM outcomes WHERE month = %s GROUP BY 1",
        (month,),
    ).fetchall()
    offsets = {partition: offset for partition, offset, _, _ in rows}
    return Month(month, sum(row[3] for row in rows), max((row[2] for row in rows), default=0), offsets)


def month_of_outcome(
    connection: psycopg.Connection[Any], order_id: str, command_id: str, message: bytes
) -> date | None:
    """Returns the first month with this outcome of a command, or None if it is not stored. Raises psycopg.Error."""
    month: date | None = fetch_value(
        connection,
        "SELECT min(month) FROM outcomes WHERE order_id = %s AND command_id = %s AND message = %s",
        (order_id, command_id, message),
    )
    return month


def month_of_letter(connection: psycopg.Connection[Any], partition: int, offset: int) -> date | None:
    """Returns the month of a dead letter, or None if it is not stored. Raises psycopg.Error."""
    month: date | None = fetch_value(
        connection,
        "SELECT month FROM outcomes WHERE kind = 'dead' AND partition = %s AND record_offset = %s",
        (partition, offset),
    )
    return month


def has_later(connection: psycopg.Connection[Any], month: date) -> bool:
    """Whether a later month has any outcome. Raises psycopg.Error."""
    return bool(fetch_value(connection, "SELECT EXISTS (SELECT FROM outcomes WHERE month > %s)", (month,)))


def letters_in_hand(connection: psycopg.Connection[Any], month: date, months: int) -> int:
    """Returns how many dead letters of a month nobody has handled, or only in the last `months`. Raises psycopg.Error.

    Those handled lately are counted because a retried record is compared with its dead letter.
    """
    count = fetch_value(
        connection,
        "SELECT count(*) FROM outcomes LEFT JOIN handled_dead_letters USING (partition, record_offset) "
        "WHERE kind = 'dead' AND month = %s AND (handled_at IS NULL OR handled_at + make_interval(months => %s) > "
        "date_trunc('month', now() AT TIME ZONE 'UTC'))",
        (month, months),
    )
    return int(count)


def orders_of(connection: psycopg.Connection[Any], month: date) -> Iterator[tuple[str, int]]:
    """Yields each order with commands in a month, and the partition of these commands. Raises psycopg.Error."""
    with connection.transaction(), connection.cursor("orders", row_factory=tuple_row) as cursor:
        cursor.itersize = 10_000
        cursor.execute(
            "SELECT DISTINCT order_id, partition FROM outcomes WHERE month = %s AND kind <> 'dead'", (month,)
        )
        yield from cursor


def retire_month(connection: psycopg.Connection[Any], month: date) -> None:
    """Drops a month's outcomes, and notes up to where outcomes are retired.

    `connection` must be the tables' owner's, in autocommit mode. Raises MonthInUse, and changes nothing then, and
    psycopg.Error.
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
    """Keeps months from being retired until the block ends. Raises psycopg.Error."""
    with lock_held(url, f"SELECT pg_advisory_xact_lock_shared({_KEEPING})"):
        yield
