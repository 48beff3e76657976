"""Encodes events, with their texts sealed, and decodes stored events of every version."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent
from msgspec import UNSET

from services.orders.events import EVENTS, Event, OrderRegistered, OrderTextsErased
from services.orders.texts import WITH_TEXTS, texts, without, without_texts
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import OrderKey, OrderKeys
from services.sealing.seal import (
    KEY_BYTES,
    NONCE_BYTES,
    VERSION_2,
    Broken,
    RandomBytes,
    encode_event,
    seal,
    split,
    unseal,
)

CHANGE_KEYS = WITH_TEXTS | {OrderTextsErased}
"""The events that make or erase order keys."""
_WITH_TERMS = OrderRegistered.__name__ + VERSION_2
"""The topic of a registration under terms of its own. Earlier versions do not know it, and so judge no such order."""
_DECODE_V1 = {topic: msgspec.json.Decoder(event_type).decode for topic, event_type in EVENTS.items()}
_DECODE_PLAIN = _DECODE_V1 | {_WITH_TERMS: _DECODE_V1[OrderRegistered.__name__]}
_DECODE_SEALED = {event_type.__name__ + VERSION_2: _DECODE_V1[event_type.__name__] for event_type in WITH_TEXTS}


class Stored(Protocol):
    """A stored event: the library's `StoredEvent`, or a `StoredRow`."""

    @property
    def originator_id(self) -> Any:
        """The order's id."""
        ...

    @property
    def originator_version(self) -> int:
        """The event's sequence in its order."""
        ...

    @property
    def topic(self) -> str:
        """The name of its class, with a suffix for version 2."""
        ...

    @property
    def state(self) -> bytes:
        """Its content, with sealed texts."""
        ...


class StoredRow(msgspec.Struct, gc=False):
    """A row of `order_events`. Much faster to make than the library's frozen dataclass."""

    originator_id: str
    """The order's id."""
    originator_version: int
    """The event's sequence in its order."""
    topic: str
    """The name of its class, with a suffix for version 2."""
    state: bytes
    """Its content, with sealed texts."""


def sealed_orders(stored: Iterable[Stored]) -> set[str]:
    """Returns the orders whose keys are needed to read these events."""
    return {str(event.originator_id) for event in stored if event.topic in _DECODE_SEALED}


class Sealing:
    """Encodes the events of one transaction, and collects the keys that they make and erase."""

    def __init__(self, keys: dict[str, OrderKey], masters: MasterKeys) -> None:
        """`keys`: the newest key of each order. Keys that this object makes or erases are updated there."""
        self.keys = keys
        self._masters = masters
        self._random = RandomBytes()
        self._made: dict[tuple[str, int], bytes] = {}
        self.erased: list[tuple[str, int]] = []
        """Order and number of the keys to erase. Some may have been made by the same events."""

    def stored(self, event: Event) -> StoredRow:
        """Returns the event as it is stored."""
        kind = type(event)
        topic, state = _topic(event), None
        if kind in WITH_TEXTS:
            if event_texts := texts(event):
                state = seal(event, event_texts, *self._key(event.originator_id), self._random.take(NONCE_BYTES))
        elif kind is OrderTextsErased:
            self._erase(event.originator_id)
        return StoredRow(event.originator_id, event.originator_version, topic, state or encode_event(event))

    def made(self) -> list[tuple[str, int, str, bytes]]:
        """Returns the new rows of `order_keys`: order, number, id of the master key, wrapped key."""
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
        """Erases the order's key. Makes one first if there is none: an erased key also marks plain texts as erased."""
        number, _ = self._key(order_id)
        self.keys[order_id] = OrderKey(number)
        self.erased.append((order_id, number))


class OrderMapper(Mapper[str]):
    """The mapper that the library finds by `MAPPER_TOPIC`. It decodes one event at a time.

    Code that reads many events should load their keys at once, and call `decode_event`.
    """

    keys: Callable[[set[str]], OrderKeys]
    """Loads the keys of orders."""

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        """Raises NotImplementedError: `OrderStore.append` stores new keys together with the events."""
        raise NotImplementedError("events are appended by OrderStore.append")

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """Raises MapperDeserialisationError for an event that this version does not know or cannot read."""
        return decode_event(stored_event, self.keys(sealed_orders([stored_event])))


def decode_event(stored: Stored, keys: OrderKeys) -> Event:
    """Decodes a stored event of any version. Texts of an erased order read as `[erased]`.

    Raises MapperDeserialisationError for an event that this version does not know or cannot read, and for an event
    whose content belongs to another one.
    """
    try:
        decode = _DECODE_PLAIN.get(stored.topic)
        event = _decode_sealed(stored, keys) if decode is None else decode(stored.state)
    except (KeyError, Broken, msgspec.MsgspecError) as error:
        raise _unreadable(stored, f"{error!r}. Run the version that wrote it, or a later one.") from error
    if (event.originator_id, event.originator_version) != (stored.originator_id, stored.originator_version):
        raise _unreadable(stored, "its content is another event's. Somebody has changed it.")
    return event


def _decode_sealed(stored: Stored, keys: OrderKeys) -> Event:
    """Decodes an event with sealed texts. msgspec keeps the last of two equal keys, so the unsealed texts win."""
    decode = _DECODE_SEALED[stored.topic]
    state, sealed = split(stored.state)
    bare = decode(state)
    if sealed is None or (key := keys.get(bare.originator_id, sealed.key_number)) is None:
        return bare
    return decode(state[:-1] + b"," + unseal(bare, sealed.content, key)[1:])


def _topic(event: Event) -> str:
    """Returns the topic under which this version stores an event."""
    kind = type(event)
    if kind in WITH_TEXTS or (isinstance(event, OrderRegistered) and event.terms is not UNSET):
        return kind.__name__ + VERSION_2
    return kind.__name__


def is_stored_as(stored: Stored, event: Event, keys: OrderKeys) -> bool:
    """Whether any version of the service stores the event as these bytes. Does not compare erased texts."""
    name, topic = type(event).__name__, _topic(event)
    if (stored.originator_id, stored.originator_version) != (event.originator_id, event.originator_version):
        return False
    if stored.topic != topic and not (type(event) in WITH_TEXTS and stored.topic == name):
        return False
    if stored.topic not in _DECODE_SEALED:
        erased = event.originator_id in keys.erased and stored.state == encode_event(without_texts(event))
        return erased or stored.state == encode_event(event)
    event_texts = texts(event)
    try:
        state, sealed = split(stored.state)
        if state != encode_event(without(event, event_texts)):
            return False
        if sealed is None:
            return not event_texts
        key = keys.get(event.originator_id, sealed.key_number)
        return key is None or unseal(event, sealed.content, key) == encode_event(event_texts)
    except (KeyError, Broken):
        return False


def _unreadable(stored: Stored, why: str) -> MapperDeserialisationError:
    return MapperDeserialisationError(
        f"event {stored.originator_version} of order {stored.originator_id}, a {stored.topic}, cannot be read: {why}"
    )
