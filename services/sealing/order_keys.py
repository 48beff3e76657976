"""The keys of orders: how a batch of events is sealed, and how it is read again.

Readers load the keys of what they read behind it, and keep none: a key that was there before an erasure must not
read what is read after it.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
import psycopg

from services.eventstore.database import ANSWER_WITHIN_SECONDS, connect
from services.eventstore.stored_event import Stored, StoredRow
from services.orders.events import Event, OrderTextsErased
from services.orders.texts import WITH_TEXTS, texts

from .master_keys import NO_MASTER, MasterKeyError, MasterKeys
from .seal import KEY_BYTES, NONCE_BYTES, VERSION_2, RandomBytes, encode_event, seal

CHANGE_KEYS = WITH_TEXTS | {OrderTextsErased}
"""The events that take or erase keys."""
_REWRAPPED_AT_ONCE = 1000
SELECT_KEYS = "SELECT order_id, number, master, wrapped FROM order_keys WHERE order_id = ANY(%s)"


class OrderKey(msgspec.Struct, frozen=True):
    """An order's newest key. `key` is None once it is erased; number 0 is that of an order which never had one."""

    number: int = 0
    key: bytes | None = None


class OrderKeys:
    """The keys of some orders, to read their events with."""

    def __init__(self, keys: Mapping[tuple[str, int], bytes | None] | None = None) -> None:
        self._keys = dict(keys or {})
        self.erased = frozenset(order_id for (order_id, _), key in self._keys.items() if key is None)
        """The orders that have an erased one."""

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[str, int, str, bytes | None]], masters: MasterKeys) -> "OrderKeys":
        """From rows of `SELECT_KEYS`. Raises MasterKeyError."""
        return cls(
            {
                (order_id, number): None if wrapped is None else masters.unwrap(order_id, number, master, wrapped)
                for order_id, number, master, wrapped in rows
            }
        )

    def get(self, order_id: str, number: int) -> bytes | None:
        """None for an erased one. Raises KeyError for one that never was."""
        return self._keys[order_id, number]

    def newest(self) -> dict[str, OrderKey]:
        """By order."""
        found: dict[str, OrderKey] = {}
        for (order_id, number), key in sorted(self._keys.items(), key=lambda item: item[0]):
            found[order_id] = OrderKey(number, key)
        return found


class _Withheld(OrderKeys):
    """For whoever has no business with texts: they read as erased."""

    def get(self, order_id: str, number: int) -> None:
        return None


WITHOUT_TEXTS = _Withheld()


def load_keys(connection: psycopg.Connection[Any], order_ids: Collection[str], masters: MasterKeys) -> OrderKeys:
    """The keys of these orders. Raises MasterKeyError and psycopg.Error."""
    if not order_ids:
        return OrderKeys()
    with connection.cursor(row_factory=psycopg.rows.tuple_row, binary=True) as cursor:
        return OrderKeys.of_rows(cursor.execute(SELECT_KEYS, (list(order_ids),), prepare=True), masters)


def check_master_keys(database_url: str, masters: MasterKeys) -> None:
    """Raises MasterKeyError where the database has keys that these master keys do not unwrap."""
    with connect(database_url, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        masters.check(connection)


def rewrap(connection: psycopg.Connection[Any], masters: MasterKeys) -> int:
    """Wraps the keys that another master key wraps, or none, with the newest; returns how many.

    `connection` commits by itself. Raises MasterKeyError and psycopg.Error; another call goes on where this stopped.
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


def sealed_orders(stored: Iterable[Stored]) -> set[str]:
    """The orders whose keys it takes to read these."""
    return {str(event.originator_id) for event in stored if event.topic.endswith(VERSION_2)}


class Sealing:
    """Turns the events of one transaction into stored ones, and tells what becomes of their orders' keys by that.

    `keys`, the newest by order, is changed. `erased` are the keys, by order and number, that nobody is to have any
    more; some of them may have been made by the same events.
    """

    def __init__(self, keys: dict[str, OrderKey], masters: MasterKeys) -> None:
        self.keys = keys
        self._masters = masters
        self._random = RandomBytes()
        self._made: dict[tuple[str, int], bytes] = {}
        self.erased: list[tuple[str, int]] = []

    def stored(self, event: Event) -> StoredRow:
        """The event as it is stored."""
        kind = type(event)
        topic, state = kind.__name__, None
        if kind in WITH_TEXTS:
            topic += VERSION_2
            if found := texts(event):
                state = seal(event, found, *self._key(event.originator_id), self._random.take(NONCE_BYTES))
        elif kind is OrderTextsErased:
            self._erase(event.originator_id)
        return StoredRow(event.originator_id, event.originator_version, topic, state or encode_event(event))

    def made(self) -> list[tuple[str, int, str, bytes]]:
        """New rows of `order_keys`: order, number, id of the master key, wrapped key."""
        return [
            (order_id, number, self._masters.newest, self._masters.wrap(order_id, number, key))
            for (order_id, number), key in self._made.items()
        ]

    def _key(self, order_id: str) -> tuple[int, bytes]:
        key = self.keys.get(order_id, OrderKey())
        if key.key is not None:
            return key.number, key.key
        number, new = key.number + 1, self._random.take(KEY_BYTES)
        self.keys[order_id] = OrderKey(number, new)
        self._made[order_id, number] = new
        return number, new

    def _erase(self, order_id: str) -> None:
        """An order without a key gets one for that: erased, it says that the order's plain texts are gone."""
        number, _ = self._key(order_id)
        self.keys[order_id] = OrderKey(number)
        self.erased.append((order_id, number))
