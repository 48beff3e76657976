"""Between events and stored events, in every version: the library's mapper, for msgspec structs."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent

from services.orders.events import EVENTS, Event
from services.orders.texts import WITH_TEXTS, texts, without, without_texts
from services.sealing.order_keys import OrderKeys, sealed_orders
from services.sealing.seal import VERSION_2, Broken, encode_event, split, unseal

from .stored_event import Stored, StoredRow

_FIRST = {topic: msgspec.json.Decoder(event_type).decode for topic, event_type in EVENTS.items()}
_SECOND = {event_type.__name__ + VERSION_2: _FIRST[event_type.__name__] for event_type in WITH_TEXTS}


class OrderMapper(Mapper[str]):
    """JSON by msgspec, texts sealed. Named to the library by `MAPPER_TOPIC`.

    For the library's own calls, one event at a time; `keys` gives an order's. Whatever handles many events at once
    loads their keys at once, and calls `decode_event`.
    """

    keys: Callable[[set[str]], OrderKeys]

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        """Not for appending: a key that is new would have to be stored with the event. See `OrderStore.append`."""
        raise NotImplementedError("events are appended by OrderStore.append")

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """Raises MapperDeserialisationError for an event that this version does not know or cannot read."""
        return decode_event(stored_event, self.keys(sealed_orders([stored_event])))


def decode_event(stored: Stored, keys: OrderKeys) -> Event:
    """Reads a stored event of any version. Texts of an erased order read as `[erased]`.

    Raises MapperDeserialisationError for an event that this version does not know or cannot read, or another's.
    """
    try:
        event = _FIRST[stored.topic](stored.state) if stored.topic in _FIRST else _decode_second(stored, keys)
    except (KeyError, Broken, msgspec.MsgspecError) as error:
        raise _unreadable(stored, f"{error!r}. Run the version that wrote it, or a later one.") from error
    if (event.originator_id, event.originator_version) != (stored.originator_id, stored.originator_version):
        raise _unreadable(stored, "its content is another event's. Somebody has changed it.")
    return event


def _decode_second(stored: Stored, keys: OrderKeys) -> Event:
    """Texts were sealed from here on. Of a member that comes twice, the decoder takes the last."""
    decode = _SECOND[stored.topic]
    state, number, content = split(stored.state)
    bare = decode(state)
    if not number or (key := keys.get(bare.originator_id, number)) is None:
        return bare
    return decode(state[:-1] + b"," + unseal(bare, content, key)[1:])


def decode_row(row: Mapping[str, Any], keys: OrderKeys) -> Event:
    """The same from a row of `order_events`."""
    stored = StoredRow(row["originator_id"], row["originator_version"], row["topic"], row["state"])
    return decode_event(stored, keys)


def is_stored_as(stored: Stored, event: Event, keys: OrderKeys) -> bool:
    """Whether this is what some version stores of the event, byte for byte, but what is erased."""
    name, version = stored.topic.removesuffix(VERSION_2), stored.topic.endswith(VERSION_2)
    if (stored.originator_id, stored.originator_version, name) != (
        event.originator_id,
        event.originator_version,
        type(event).__name__,
    ):
        return False
    if not version:
        erased = event.originator_id in keys.erased and stored.state == encode_event(without_texts(event))
        return erased or stored.state == encode_event(event)
    found = texts(event)
    try:
        state, number, content = split(stored.state)
        if state != encode_event(without(event, found)):
            return False
        if not number:
            return not found
        key = keys.get(event.originator_id, number)
        return key is None or unseal(event, content, key) == encode_event(found)
    except (KeyError, Broken):
        return False


def _unreadable(stored: Stored, why: str) -> MapperDeserialisationError:
    return MapperDeserialisationError(
        f"event {stored.originator_version} of order {stored.originator_id}, a {stored.topic}, cannot be read: {why}"
    )
