"""Keeps orders in memory between batches. They are valid only while this process owns their partitions."""

from collections.abc import Iterable
from itertools import islice

from services.orders import Order

Orders = dict[str, Order | Exception]
"""Orders by order id. For an order that cannot be loaded: the exception."""


class OrderCache:
    """The orders that were used last. Not thread-safe."""

    def __init__(self, size: int) -> None:
        """Keeps at most `size` orders: more than two batches have, because their events may not be committed yet."""
        self._size = size
        self._orders: Orders = {}
        self.earlier: set[str] = set()
        """Cached orders with commands of earlier months or command ids in capital letters. The index does not find
        repeats of those, so the ids of these orders' commands have to be looked up."""

    def take(self, order_ids: Iterable[str]) -> tuple[Orders, list[str]]:
        """Returns the cached orders among these, and the ids of the others, each once."""
        cached: Orders = {}
        missing: dict[str, None] = {}
        for order_id in order_ids:
            if (order := self._orders.get(order_id)) is None:
                missing[order_id] = None
            else:
                cached[order_id] = order
        return cached, list(missing)

    def put(self, orders: Orders) -> None:
        """Adds orders as the last ones used, and drops the ones used longest ago."""
        for order_id, order in orders.items():
            self._orders.pop(order_id, None)
            self._orders[order_id] = order
        surplus = len(self._orders) - self._size
        if surplus > 0:
            self.drop(list(islice(self._orders, surplus)))

    def drop(self, order_ids: Iterable[str]) -> None:
        """Forgets these orders."""
        for order_id in order_ids:
            self._orders.pop(order_id, None)
            self.earlier.discard(order_id)

    def clear(self) -> None:
        """Forgets all orders."""
        self._orders.clear()
        self.earlier.clear()
