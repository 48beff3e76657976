"""Public events, as they go on Kafka."""

import msgspec
from eventsourcing.persistence import StoredEvent
from resolution_contracts import topics

from services.orders.public import event_envelope
from services.store.mapper import decode_event

from .batches import Headers

CONTENT_TYPE: Headers = [("content-type", topics.CONTENT_TYPE.encode())]
_encode = msgspec.json.Encoder().encode


def event_message(stored: StoredEvent) -> bytes:
    """The event's public envelope. Raises MapperDeserialisationError for an event this version does not know."""
    return _encode(event_envelope(decode_event(stored)))
