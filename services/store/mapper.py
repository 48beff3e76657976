"""Between events and stored events: the library's mapper, for msgspec structs."""

from collections.abc import Mapping
from typing import Any

import msgspec
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent

from services.orders.events import EVENTS, Event

encode_event = msgspec.json.Encoder().encode
_DECODERS = {topic: msgspec.json.Decoder(event_type).decode for topic, event_type in EVENTS.items()}


class OrderMapper(Mapper[str]):
    """JSON by msgspec; the topic is the event's name. Named to the library by `MAPPER_TOPIC`."""

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=type(domain_event).__name__,
            state=encode_event(domain_event),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """Raises MapperDeserialisationError for an event that this version does not know or cannot read."""
        return decode_event(stored_event)


def decode_event(stored_event: StoredEvent) -> Event:
    """Raises MapperDeserialisationError for an event that this version does not know or cannot read, or another's."""
    try:
        event = _DECODERS[stored_event.topic](stored_event.state)
    except (KeyError, msgspec.MsgspecError) as error:
        raise _unreadable(stored_event, f"{error!r}. Run the version that wrote it, or a later one.") from error
    if (event.originator_id, event.originator_version) != (stored_event.originator_id, stored_event.originator_version):
        raise _unreadable(stored_event, "its content is another event's. Somebody has changed it.")
    return event


def decode_row(row: Mapping[str, Any]) -> Event:
    """The same from a row of `order_events`."""
    return decode_event(StoredEvent(row["originator_id"], row["originator_version"], row["topic"], row["state"]))


def _unreadable(stored: StoredEvent, why: str) -> MapperDeserialisationError:
    return MapperDeserialisationError(
        f"event {stored.originator_version} of order {stored.originator_id}, a {stored.topic}, cannot be read: {why}"
    )
