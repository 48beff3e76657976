"""Public events, as they go on Kafka."""

import msgspec
from eventsourcing.persistence import StoredEvent
from resolution_contracts import topics

from services.orders.events import Event
from services.orders.instants import format_instant
from services.orders.public import public_data
from services.store.mapper import decode_event

from .batches import Headers

CONTENT_TYPE: Headers = [("content-type", topics.CONTENT_TYPE.encode())]
_encode = msgspec.json.Encoder().encode


def event_message(stored: StoredEvent) -> bytes:
    """The event's public envelope. Raises MapperDeserialisationError for an event this version does not know."""
    return _encode(event_envelope(decode_event(stored)))


def event_envelope(event: Event) -> dict[str, object]:
    """The envelope of contract.md, with the public part of the data only (D16)."""
    return {
        "specversion": "1.0",
        "id": f"{event.originator_id}:{event.originator_version}",
        "type": topics.event_type(type(event).__name__),
        "source": topics.SOURCE,
        "subject": event.originator_id,
        "time": format_instant(event.timestamp),
        "sequence": event.originator_version,
        "causationid": event.command_id,
        "data": public_data(event),
    }
