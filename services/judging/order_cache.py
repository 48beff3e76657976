"""The orders that this process knows. Its own only while it owns their partitions."""

from collections.abc import Iterable
from itertools import islice

from services.orders import Order

Orders = dict[str, Order | Exception]
"""By order id. In the place of an order that cannot be loaded stands the reason."""


class OrderCache:
    """The orders used last, at most `size`. Not for two threads.

    `size` is well above the orders of two pieces of a batch, so that none gives way before its events are committed.
    `earlier` names those that have commands of earlier months, or command ids in capital letters: no index finds those
    where they are used again.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._orders: Orders = {}
        self.earlier: set[str] = set()

    def take(self, order_ids: Iterable[str]) -> tuple[Orders, list[str]]:
        """The orders that are here, and the ids of those that are not."""
        found: Orders = {}
        missing: dict[str, None] = {}
        for order_id in order_ids:
            if (order := self._orders.get(order_id)) is None:
                missing[order_id] = None
            else:
                found[order_id] = order
        return found, list(missing)

    def put(self, orders: Orders) -> None:
        """These were used now; the ones used longest ago give way."""
        for order_id, order in orders.items():
            self._orders.pop(order_id, None)
            self._orders[order_id] = order
        surplus = len(self._orders) - self._size
        if surplus > 0:
            self.drop(list(islice(self._orders, surplus)))

    def drop(self, order_ids: Iterable[str]) -> None:
        """These are not what they should be, or not needed."""
        for order_id in order_ids:
            self._orders.pop(order_id, None)
            self.earlier.discard(order_id)

    def clear(self) -> None:
        """Forgets all orders."""
        self._orders.clear()
        self.earlier.clear()
