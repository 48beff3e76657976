"""Public events, as they go on Kafka."""

import msgspec
from resolution_contracts import topics

from services.orders.events import Event
from services.orders.public_events import event_envelope

from .batches import Headers

CONTENT_TYPE: Headers = [("content-type", topics.CONTENT_TYPE.encode())]
_encode = msgspec.json.Encoder().encode


def event_message(event: Event) -> bytes:
    """The event's public envelope."""
    return _encode(event_envelope(event))
