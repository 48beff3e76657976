"""Reads the table `outcomes`: what became of each record of the commands topic, and of each command id."""

import struct
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from datetime import date
from typing import Any, LiteralString, NamedTuple, TypeVar

import psycopg
from psycopg.rows import BaseRowFactory, tuple_row

from services.judging.first_uses import RETIRED, FirstUse, FirstUses, remember
from services.judging.outcomes import Outcome, OutcomeKind

from .database import copied_rows, fetch_value

_Row = TypeVar("_Row", bound="StoredOutcome")
_KINDS = {str(kind): kind for kind in OutcomeKind}


class StoredOutcome(Outcome, gc=False):
    """A row of the table `outcomes`."""

    outcome_id: int
    """The number of the outcome in the whole store, in the order of judging."""
    last_event_id: int
    """The number of the last event that was stored with this outcome or one before it."""


class OutcomeWithEvents(StoredOutcome, gc=False):
    """An outcome with the range of its events."""

    before: int
    """The number of the last event that was stored before it."""

    @property
    def event_ids(self) -> range:
        """The numbers of the events that were stored with the outcome."""
        return range(self.before + 1, self.last_event_id + 1)


_COLUMNS: LiteralString = (
    "kind, partition, record_offset, message, order_id, command_id, digest, source, key, headers, traceparent, "
    "outcome_id, last_event_id "
)
_SELECT: LiteralString = "SELECT " + _COLUMNS + "FROM outcomes "

# PostgreSQL uses a partial index only if the query has the index's own condition.
_FIRST_USE: LiteralString = "kind IN ('accepted', 'rejected') "
_REPEAT: LiteralString = "kind IN ('repeated', 'reused') "


def _as(kind_of_row: type[_Row]) -> BaseRowFactory[_Row]:
    def make(values: Sequence[Any]) -> _Row:
        return kind_of_row(_KINDS[values[0]], *values[1:])

    return lambda _: make


_ROWS = _as(StoredOutcome)


# --- in their order ---


def last_outcome(connection: psycopg.Connection[Any]) -> int:
    """Returns the id of the outcome that was stored last, or 0. Raises psycopg.Error."""
    return int(fetch_value(connection, "SELECT coalesce(max(outcome_id), 0) FROM outcomes"))


async def next_outcomes(
    connection: psycopg.AsyncConnection[Any], after: int, most: int, most_bytes: int
) -> list[StoredOutcome]:
    """Returns at most `most` outcomes after number `after`, in their order. Raises psycopg.Error.

    Stops after the outcome with which the bytes to publish reach `most_bytes`.
    """
    select: LiteralString = (
        f"SELECT {_COLUMNS}FROM (SELECT *, sum(coalesce(octet_length(message), 0) + "  # noqa: S608 (all SQL is ours)
        "coalesce(octet_length(key), 0) + coalesce(octet_length(headers), 0)) OVER (ORDER BY outcome_id "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before "
        "FROM outcomes WHERE outcome_id > %s ORDER BY outcome_id LIMIT %s) AS run "
        "WHERE before IS NULL OR before < %s ORDER BY outcome_id"
    )
    return await _select_async(connection, select, (after, most, most_bytes))


async def outcome_numbered(connection: psycopg.AsyncConnection[Any], outcome_id: int) -> StoredOutcome:
    """Returns the outcome with this number, which must exist. Raises psycopg.Error."""
    [outcome] = await _select_async(connection, _SELECT + "WHERE outcome_id = %s", (outcome_id,))
    return outcome


def outcomes_of_partitions(
    connection: psycopg.Connection[Any], partitions: Collection[int], after: int, most: int
) -> list[StoredOutcome]:
    """Returns at most `most` outcomes after number `after`, in their order. Raises psycopg.Error."""
    where: LiteralString = "WHERE partition = ANY(%s) AND outcome_id > %s ORDER BY outcome_id LIMIT %s"
    return _select(connection, _SELECT + where, (list(partitions), after, most))


def outcomes_between(
    connection: psycopg.Connection[Any], partitions: Collection[int], after: int, last: int
) -> list[OutcomeWithEvents]:
    """Returns the outcomes numbered above `after`, up to `last`, in their order. Raises psycopg.Error."""
    with connection.cursor(row_factory=_as(OutcomeWithEvents), binary=True) as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS}, before FROM (SELECT *, "  # noqa: S608
            "coalesce(lag(last_event_id) OVER (ORDER BY outcome_id), "
            "(SELECT last_event_id FROM outcomes WHERE outcome_id <= %(after)s ORDER BY outcome_id DESC LIMIT 1), "
            "retired_event_id()) AS before FROM outcomes WHERE outcome_id BETWEEN %(after)s AND %(last)s) AS o "
            "WHERE partition = ANY(%(partitions)s) AND outcome_id > %(after)s ORDER BY outcome_id",
            {"after": after, "last": last, "partitions": list(partitions)},
        )
        return cursor.fetchall()


def missing_outcomes(connection: psycopg.Connection[Any], after: int, last: int) -> list[int]:
    """Returns numbers above `after`, up to `last`, that no outcome has: the first thousand. Raises psycopg.Error."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT n FROM generate_series(%s::bigint, %s::bigint) AS n "
            "WHERE NOT EXISTS (SELECT FROM outcomes WHERE outcome_id = n) LIMIT 1000",
            (after + 1, last),
        )
        return [number for (number,) in cursor]


# --- of an order, and of command ids ---


def outcomes_of_order(connection: psycopg.Connection[Any], order_id: str, *, repeats: bool) -> list[StoredOutcome]:
    """Returns the outcomes of an order's commands, in the order of judging. Raises psycopg.Error.

    With `repeats`, also the outcomes of commands whose id had been used before.
    """
    select: LiteralString = (
        f"{_SELECT}WHERE order_id = %(order)s AND {_FIRST_USE}UNION ALL "
        f"{_SELECT}WHERE order_id = %(order)s AND {_REPEAT}AND %(repeats)s ORDER BY outcome_id"
    )
    return _select(connection, select, {"order": order_id, "repeats": repeats})


def outcome_of_command(connection: psycopg.Connection[Any], order_id: str, command_id: str) -> StoredOutcome | None:
    """Returns the outcome of a command id's first use, or None. Ignores letter case. Raises psycopg.Error."""
    small = command_id.lower()
    where: LiteralString = (
        f"WHERE order_id = %s AND {_FIRST_USE}"
        "AND (command_id IN (%s, %s) OR (lower(command_id) = %s AND command_id <> lower(command_id))) "
        "ORDER BY command_id <> %s, outcome_id LIMIT 1"
    )
    outcomes = _select(connection, _SELECT + where, (order_id, command_id, small, small, command_id))
    return outcomes[0] if outcomes else None


class PlacedOutcome(NamedTuple):
    """The outcome of a command, and where the command's record is on the commands topic."""

    order_id: str
    command_id: str
    partition: int
    offset: int
    """The offset on the topic that there is now, without the base of earlier topics."""
    message: bytes
    last_event_id: int

    def is_of(self, partition: int, offset: int) -> bool:
        """Whether it is the outcome of the record at this place."""
        return (self.partition, self.offset) == (partition, offset)


_PLACED: LiteralString = (
    "SELECT order_id, command_id, partition, record_offset - base, message, last_event_id "
    "FROM outcomes JOIN positions USING (partition) WHERE consumer = 'commands' "
)


def first_outcomes(connection: psycopg.Connection[Any], commands: Collection[tuple[str, str]]) -> list[PlacedOutcome]:
    """Returns the outcomes of the first uses of these commands (order id, command id). Raises psycopg.Error.

    Letter case matters: an id is found only as it was first spelled.
    """
    order_ids, ids = zip(*commands, strict=True)
    query: LiteralString = (
        f"{_PLACED}AND {_FIRST_USE}"  # noqa: S608
        "AND (order_id, command_id) IN (SELECT * FROM unnest(%s::text[], %s::text[]) AS asked (order_id, command_id))"
    )
    with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        cursor.execute(query, (list(order_ids), list(ids)), prepare=True)
        return [PlacedOutcome(*row) for row in cursor]


def outcome_at(
    connection: psycopg.Connection[Any], order_id: str, command_id: str, partition: int, offset: int
) -> PlacedOutcome | None:
    """Returns the outcome of a command in the record at this place on the topic that there is now, or None.

    Also that of a repeat, or of another use of the id. Raises psycopg.Error.
    """
    here: LiteralString = "AND order_id = %s AND command_id = %s AND partition = %s AND record_offset = %s + base "
    query: LiteralString = f"{_PLACED}AND {_FIRST_USE}{here}UNION ALL {_PLACED}AND {_REPEAT}{here}"
    with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        row = cursor.execute(query, (order_id, command_id, partition, offset) * 2).fetchone()
    return None if row is None else PlacedOutcome(*row)


_STORED_USES: LiteralString = (
    "WITH asked AS (SELECT * FROM unnest(%s::text[], %s::text[]) AS asked (order_id, command_id)), "  # noqa: S608
    "used AS (SELECT o.* FROM asked JOIN outcomes AS o USING (order_id, command_id) "
    f"WHERE o.{_FIRST_USE}"
    "UNION ALL SELECT o.* FROM asked JOIN outcomes AS o ON o.order_id = asked.order_id "
    "AND lower(o.command_id) = asked.command_id AND o.command_id <> lower(o.command_id) "
    f"WHERE o.{_FIRST_USE}) SELECT order_id, command_id, digest, message FROM used "
)
"""SQL: finds ids in any letter case, if each id is asked for twice: as it is, and in small letters."""

_ALL_USES: LiteralString = (
    _STORED_USES  # noqa: S608 - has no text of a sender
    + "UNION ALL SELECT order_id, command_id, NULL, NULL FROM asked JOIN order_events "
    "ON originator_id = order_id AND notification_id <= retired_event_id() "
    "AND lower(convert_from(state, 'UTF8')::json ->> 'command_id') = lower(command_id)"
)


def first_uses(connection: psycopg.Connection[Any], commands: Collection[tuple[str, str]]) -> FirstUses:
    """Returns the first use of each command (order id, command id) whose id was used before. Raises psycopg.Error."""
    return _uses(connection, commands, _ALL_USES)


def first_uses_before(
    connection: psycopg.Connection[Any], commands: Collection[tuple[str, str]], outcome_id: int
) -> FirstUses:
    """Returns those of `first_uses` that have an outcome up to number `outcome_id`. Raises psycopg.Error."""
    return _uses(connection, commands, _STORED_USES + "WHERE outcome_id <= %s", outcome_id)


def _uses(
    connection: psycopg.Connection[Any], commands: Collection[tuple[str, str]], query: LiteralString, *parameters: int
) -> FirstUses:
    uses: FirstUses = {}
    if not commands:
        return uses
    order_ids, ids = zip(*{*commands, *((order, id_.lower()) for order, id_ in commands)}, strict=True)
    with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        cursor.execute(query, (list(order_ids), list(ids), *parameters), prepare=True)
        for order_id, command_id, digest, message in cursor:
            remember(uses, order_id, command_id, RETIRED if digest is None else FirstUse(digest, message))
    return uses


def with_earlier_commands(connection: psycopg.Connection[Any], order_ids: Collection[str], month: date) -> set[str]:
    """Returns those of these orders that have commands judged before `month`. Raises psycopg.Error."""
    return _order_ids(
        connection,
        "SELECT order_id FROM unnest(%s::text[]) AS asked (order_id) "  # noqa: S608
        "WHERE EXISTS (SELECT FROM outcomes AS o "
        f"WHERE o.order_id = asked.order_id AND {_FIRST_USE}AND month < %s) "
        "OR EXISTS (SELECT FROM order_events WHERE originator_id = order_id AND originator_version = 1 "
        "AND notification_id <= retired_event_id())",
        (list(order_ids), month),
    )


def with_ids_in_capitals(connection: psycopg.Connection[Any], order_ids: Collection[str]) -> set[str]:
    """Returns those of these orders that have command ids with capital letters. Raises psycopg.Error."""
    return _order_ids(
        connection,
        f"SELECT DISTINCT order_id FROM outcomes WHERE order_id = ANY(%s) AND {_FIRST_USE}"  # noqa: S608
        "AND command_id <> lower(command_id)",
        (list(order_ids),),
    )


def _order_ids(connection: psycopg.Connection[Any], query: LiteralString, parameters: Sequence[Any]) -> set[str]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return {order_id for (order_id,) in cursor.execute(query, parameters, prepare=True)}


# --- by record ---


class RecordOutcome(NamedTuple):
    """What became of a record of the commands topic."""

    partition: int
    record_offset: int
    became: str
    """The kind of its outcome, or `parked`."""


_FIXED_COLUMNS = struct.Struct(">hiiiqi")
"""The number of columns, then each column's length and value, except for the value of the last column, `kind`."""


def outcomes_by_record(connection: psycopg.Connection[Any]) -> Generator[RecordOutcome]:
    """Streams what became of each record, sorted by partition and offset. Raises psycopg.Error.

    If the store has an error, an offset may come twice. The connection is busy until the generator ends or is closed.
    """
    query = (
        "COPY (SELECT partition, record_offset, kind FROM outcomes UNION ALL "
        "SELECT partition, record_offset, 'parked' FROM parked_commands ORDER BY 1, 2) TO STDOUT (FORMAT BINARY)"
    )
    kinds: dict[bytes, str] = {}
    with closing(copied_rows(connection, query)) as rows:
        for row in rows:
            _, _, partition, _, offset, _ = _FIXED_COLUMNS.unpack_from(row)
            name = bytes(row[_FIXED_COLUMNS.size :])
            if (kind := kinds.get(name)) is None:
                kind = kinds[name] = name.decode()
            yield RecordOutcome(partition, offset, kind)


def _select(
    connection: psycopg.Connection[Any], query: LiteralString, parameters: Sequence[Any] | dict[str, Any]
) -> list[StoredOutcome]:
    with connection.cursor(row_factory=_ROWS, binary=True) as cursor:
        return cursor.execute(query, parameters).fetchall()


async def _select_async(
    connection: psycopg.AsyncConnection[Any], query: LiteralString, parameters: Sequence[int]
) -> list[StoredOutcome]:
    async with connection.cursor(row_factory=_ROWS, binary=True) as cursor:
        await cursor.execute(query, parameters, prepare=True)
        return await cursor.fetchall()
