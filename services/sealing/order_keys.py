"""Loads order keys from the table `order_keys`.

Readers load the keys after the events, and do not keep them: a key from before an erasure must not open an event that
was read after the erasure.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

from .master_keys import NO_MASTER, MasterKeyError, MasterKeys

_REWRAPPED_AT_ONCE = 1000
_SELECT_KEYS = "SELECT order_id, number, master, wrapped FROM order_keys WHERE order_id = ANY(%s)"


class OrderKey(msgspec.Struct, frozen=True):
    """An order's newest key. `key` is None if it was erased. Number 0 means that the order never had a key."""

    number: int = 0
    key: bytes | None = None


class OrderKeys:
    """The keys of some orders, for reading their events."""

    def __init__(self, keys: Mapping[tuple[str, int], bytes | None] | None = None) -> None:
        self._keys = dict(keys or {})
        self.erased = frozenset(order_id for (order_id, _), key in self._keys.items() if key is None)
        """The orders that have an erased key."""

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[str, int, str, bytes | None]], masters: MasterKeys) -> "OrderKeys":
        """Unwraps rows of `order_keys`: order, number, id of the master key, wrapped key. Raises MasterKeyError."""
        return cls(
            {
                (order_id, number): None if wrapped is None else masters.unwrap(order_id, number, master, wrapped)
                for order_id, number, master, wrapped in rows
            }
        )

    def get(self, order_id: str, number: int) -> bytes | None:
        """Returns a key, or None if it was erased. Raises KeyError if there never was such a key."""
        return self._keys[order_id, number]

    def newest(self) -> dict[str, OrderKey]:
        """Returns the newest key of each order."""
        newest: dict[str, OrderKey] = {}
        for (order_id, number), key in sorted(self._keys.items(), key=lambda item: item[0]):
            newest[order_id] = OrderKey(number, key)
        return newest


class _Withheld(OrderKeys):
    """Keys for code that must not read texts: all texts read as erased."""

    def get(self, order_id: str, number: int) -> None:
        return None


WITHOUT_TEXTS = _Withheld()


def load_keys(connection: psycopg.Connection[Any], order_ids: Collection[str], masters: MasterKeys) -> OrderKeys:
    """Returns the keys of these orders. Raises MasterKeyError and psycopg.Error."""
    if not order_ids:
        return OrderKeys()
    with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        return OrderKeys.of_rows(cursor.execute(_SELECT_KEYS, (list(order_ids),), prepare=True), masters)


async def load_keys_async(
    connection: psycopg.AsyncConnection[Any], order_ids: Collection[str], masters: MasterKeys
) -> OrderKeys:
    """`load_keys` for coroutines."""
    if not order_ids:
        return OrderKeys()
    async with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        await cursor.execute(_SELECT_KEYS, (list(order_ids),), prepare=True)
        return OrderKeys.of_rows(await cursor.fetchall(), masters)


def rewrap(connection: psycopg.Connection[Any], masters: MasterKeys) -> int:
    """Wraps all order keys with the newest master key. Returns how many it had to wrap.

    `connection` must be in autocommit mode. Raises MasterKeyError and psycopg.Error; another call goes on from there.
    """
    if masters.newest == NO_MASTER:
        raise MasterKeyError("there is no master key. Name one in RESOLUTION_MASTER_KEY or RESOLUTION_MASTER_KEY_FILE")
    masters.register(connection)
    count = 0
    while rows := connection.execute(
        "SELECT order_id, number, master, wrapped FROM order_keys WHERE master <> %s AND wrapped IS NOT NULL LIMIT %s",
        (masters.newest, _REWRAPPED_AT_ONCE),
    ).fetchall():
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE order_keys SET master = %s, wrapped = %s "
                "WHERE order_id = %s AND number = %s AND wrapped IS NOT NULL",
                [
                    (masters.newest, masters.wrap(o, n, masters.unwrap(o, n, master, wrapped)), o, n)
                    for o, n, master, wrapped in rows
                ],
            )
        count += len(rows)
    connection.execute("DELETE FROM master_keys WHERE master <> %s", (masters.newest,))
    return count
