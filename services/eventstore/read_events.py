"""Reads stored events: by event number, by order, or as bytes.

An event's number is its `notification_id`. Events are numbered in the order of their commits, without a gap.
"""

import hashlib
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.rows import args_row, tuple_row
from psycopg.sql import SQL, Literal

from services.orders.events import Event
from services.orders.texts import WITH_TEXTS
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import load_keys, load_keys_async
from services.sealing.seal import VERSION_2

from .database import CopiedRow, copied_rows, fetch_value
from .event_codec import Stored, StoredRow, decode_event, sealed_orders

_ORDERS_AT_ONCE = 1000
_DIGESTED_EVENTS = 1000
_WITH_TEXTS = [name for kind in WITH_TEXTS for name in (kind.__name__, kind.__name__ + VERSION_2)]


class NumberedRow(StoredRow, gc=False):
    """A row of `order_events` with its number."""

    notification_id: int


_SELECT: LiteralString = (
    "SELECT originator_id, originator_version, topic, state, notification_id FROM order_events WHERE "
)
_BETWEEN: LiteralString = _SELECT + "notification_id > %s AND notification_id <= %s ORDER BY notification_id"


# --- by number ---


def newest_event(connection: psycopg.Connection[Any]) -> int:
    """Returns the number of the newest event, or 0 if the store is empty. Raises psycopg.Error.

    After a split, it may be the number of an event that is in another database.
    """
    query = "SELECT greatest(0, (SELECT max(notification_id) FROM order_events), (SELECT max(event_id) FROM splits))"
    return int(fetch_value(connection, query))


def events_between(
    connection: psycopg.Connection[Any], after: int, last: int, limit: int | None = None
) -> list[NumberedRow]:
    """Returns the events numbered above `after`, up to `last`, in their order. Raises psycopg.Error.

    Returns the first `limit` of them, or all.
    """
    if limit is None:
        return _select(connection, _BETWEEN, (after, last))
    return _select(connection, _BETWEEN + " LIMIT %s", (after, last, limit))


async def events_between_async(
    connection: psycopg.AsyncConnection[Any], after: int, last: int
) -> Sequence[NumberedRow]:
    """`events_between` for coroutines."""
    async with connection.cursor(row_factory=args_row(NumberedRow), binary=True) as cursor:
        await cursor.execute(_BETWEEN, (after, last), prepare=True)
        return await cursor.fetchall()


def events_numbered(connection: psycopg.Connection[Any], numbers: Sequence[int]) -> list[NumberedRow]:
    """Returns the events with these numbers, in no order. Raises psycopg.Error."""
    return _select(connection, _SELECT + "notification_id = ANY(%s)", (numbers,))


def digest_of_last_events(connection: psycopg.Connection[Any], up_to: int) -> str:
    """Returns a digest of the last thousand events up to this number, without their content. Raises psycopg.Error.

    It shows whether a store was restored or failed over: other events then have the same numbers.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT notification_id, originator_id, originator_version, topic FROM order_events "
            "WHERE notification_id > %s AND notification_id <= %s ORDER BY notification_id",
            (up_to - _DIGESTED_EVENTS, up_to),
        )
        return hashlib.sha256(msgspec.json.encode(cursor.fetchall())).hexdigest()


def copy_events(connection: psycopg.Connection[Any], first: int, last: int) -> Generator[CopiedRow]:
    """Streams the rows of the events numbered `first` to `last`, in their order: the bytes that checkpoints hash.

    The columns are originator_id, originator_version, topic, state and notification_id. The connection is busy until
    the generator ends or is closed. Raises psycopg.Error.
    """
    query = SQL(
        "COPY (SELECT originator_id, originator_version, topic, state, notification_id FROM order_events "
        "WHERE notification_id BETWEEN {} AND {} ORDER BY notification_id) TO STDOUT (FORMAT BINARY)"
    ).format(Literal(first), Literal(last))
    return copied_rows(connection, query)


# --- by order ---


def events_of_order(
    connection: psycopg.Connection[Any], order_id: str, after: int, limit: int
) -> Sequence[NumberedRow]:
    """Returns at most `limit` events of an order after sequence `after`, in their sequence. Raises psycopg.Error."""
    where: LiteralString = "originator_id = %s AND originator_version > %s ORDER BY originator_version LIMIT %s"
    return _select(connection, _SELECT + where, (order_id, after, limit))


def histories_of(
    connection: psycopg.Connection[Any], order_ids: Collection[str], up_to: int
) -> dict[str, list[NumberedRow]]:
    """Returns each order's events up to event number `up_to`, in their sequence. Raises psycopg.Error.

    Leaves out orders without such events.
    """
    where: LiteralString = (
        "originator_id = ANY(%s) AND notification_id <= %s ORDER BY originator_id, originator_version"
    )
    return _by_order(_select(connection, _SELECT + where, (list(order_ids), up_to)))


def first_events_of(connection: psycopg.Connection[Any], versions: Mapping[str, int]) -> dict[str, list[NumberedRow]]:
    """Returns each order's events up to the sequence in `versions`, in their sequence. Raises psycopg.Error."""
    select: LiteralString = (
        "SELECT originator_id, originator_version, topic, state, notification_id "
        "FROM unnest(%s::text[], %s::bigint[]) AS asked (order_id, version) "
        "JOIN order_events ON originator_id = order_id AND originator_version <= version "
        "ORDER BY originator_id, originator_version"
    )
    return _by_order(_select(connection, select, (list(versions), list(versions.values()))))


def all_histories(connection: psycopg.Connection[Any], up_to: int) -> Iterator[dict[str, list[NumberedRow]]]:
    """Yields what `histories_of` returns, for all orders: a thousand orders at a time, sorted by order id."""
    last = ""
    while True:
        with connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(
                "SELECT DISTINCT originator_id FROM order_events WHERE originator_id > %s ORDER BY 1 LIMIT %s",
                (last, _ORDERS_AT_ONCE),
            )
            order_ids = [order_id for (order_id,) in cursor]
        if not order_ids:
            return
        last = order_ids[-1]
        yield histories_of(connection, order_ids, up_to)


def events_with_texts(
    connection: psycopg.Connection[Any], masters: MasterKeys, order_ids: Collection[str]
) -> dict[str, list[Event]]:
    """Returns each order's events of the kinds that have texts, in their sequence. Raises as `read_with_texts` does."""
    where: LiteralString = "originator_id = ANY(%s) AND topic = ANY(%s) ORDER BY originator_id, originator_version"
    stored = _select(connection, _SELECT + where, (list(order_ids), _WITH_TEXTS))
    events = read_with_texts(connection, masters, stored)
    return {order_id: list(group) for order_id, group in groupby(events, lambda event: event.originator_id)}


# --- with their texts ---


def read_with_texts(connection: psycopg.Connection[Any], masters: MasterKeys, stored: Sequence[Stored]) -> list[Event]:
    """Decodes events with their texts. Erased texts read as `[erased]`.

    Raises MasterKeyError, MapperDeserialisationError and psycopg.Error.
    """
    keys = load_keys(connection, sealed_orders(stored), masters)
    return [decode_event(event, keys) for event in stored]


async def read_with_texts_async(
    connection: psycopg.AsyncConnection[Any], masters: MasterKeys, stored: Sequence[Stored]
) -> list[Event]:
    """`read_with_texts` for coroutines."""
    keys = await load_keys_async(connection, sealed_orders(stored), masters)
    return [decode_event(event, keys) for event in stored]


def _select(connection: psycopg.Connection[Any], query: LiteralString, parameters: Sequence[Any]) -> list[NumberedRow]:
    with connection.cursor(row_factory=args_row(NumberedRow), binary=True) as cursor:
        return cursor.execute(query, parameters).fetchall()


def _by_order(rows: Sequence[NumberedRow]) -> dict[str, list[NumberedRow]]:
    return {order_id: list(group) for order_id, group in groupby(rows, lambda row: row.originator_id)}
