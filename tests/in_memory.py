"""The store's way with events, without a database: stored as they would be, and read back."""

from collections.abc import Iterable

from eventsourcing.persistence import StoredEvent

from services.master_keys import MasterKeys
from services.orders.events import Event
from services.store.mapper import decode_event
from services.store.order_keys import OrderKey, OrderKeys, Sealing


class StoredInMemory:
    """Stored events of some orders, and the keys of their texts."""

    def __init__(self) -> None:
        self.events: dict[str, list[StoredEvent]] = {}
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
