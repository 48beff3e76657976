"""Stores events as the database would have them, and reads them back, without a database."""

from collections.abc import Iterable

from services.eventstore.event_codec import Sealing, StoredRow, decode_event
from services.eventstore.load_orders import History
from services.eventstore.snapshots import decode_state, encode_state
from services.orders import Order
from services.orders.events import Event
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import OrderKey, OrderKeys


class StoredInMemory:
    """Stored events of some orders, their order keys, and their snapshots (version and state)."""

    def __init__(self) -> None:
        self.events: dict[str, list[StoredRow]] = {}
        self.snapshots: dict[str, tuple[int, bytes]] = {}
        self._newest: dict[str, OrderKey] = {}
        self._keys: dict[tuple[str, int], bytes | None] = {}

    def append(self, events: Iterable[Event]) -> None:
        sealing = Sealing(self._newest, MasterKeys())
        for event in events:
            self.events.setdefault(event.originator_id, []).append(sealing.stored(event))
        self._keys |= {(order_id, number): key for order_id, number, _, key in sealing.made()}
        self._keys |= dict.fromkeys(sealing.erased)

    @property
    def keys(self) -> OrderKeys:
        return OrderKeys(self._keys)

    def history(self, order_id: str) -> list[Event]:
        return [decode_event(event, self.keys) for event in self.events.get(order_id, [])]

    def load(self, order_id: str, after: int) -> Order:
        """Loads an order from its snapshot. Makes the next snapshot if more than `after` events follow."""
        version, state = self.snapshots.get(order_id, (0, None))
        start = Order(id=order_id) if state is None else decode_state(order_id, version, state)
        assert start is not None
        order, due = History(start, self.events.get(order_id, [])[version:]).load(self.keys, after)
        if due is not None:
            self.snapshots[order_id] = due.version, encode_state(due)
        return order
