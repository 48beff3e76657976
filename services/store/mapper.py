"""Between events and stored events: the library's mapper, for msgspec structs."""

import msgspec
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent

from services.orders.events import EVENTS, Event

_ENCODE = msgspec.json.Encoder().encode
_DECODERS = {topic: msgspec.json.Decoder(event_type).decode for topic, event_type in EVENTS.items()}


class OrderMapper(Mapper[str]):
    """JSON by msgspec; the topic is the event's name. Named to the library by `MAPPER_TOPIC`."""

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=type(domain_event).__name__,
            state=_ENCODE(domain_event),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """Raises MapperDeserialisationError for an event that this version does not know or cannot read."""
        return decode_event(stored_event)


def decode_event(stored_event: StoredEvent) -> Event:
    """Raises MapperDeserialisationError for an event that this version does not know or cannot read."""
    try:
        return _DECODERS[stored_event.topic](stored_event.state)
    except (KeyError, msgspec.MsgspecError) as error:
        raise MapperDeserialisationError(
            f"event {stored_event.originator_version} of order {stored_event.originator_id}, a "
            f"{stored_event.topic}, cannot be read: {error!r}. Run the version that wrote it, or a later one."
        ) from error
