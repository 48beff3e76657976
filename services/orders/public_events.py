"""Makes public events from stored events, without confidential fields (D16). All published events are made here."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET
from resolution_contracts import topics

from .events import EVENTS, Confidential, Event, Money, annotated
from .instants import format_instant
from .policy import Terms

_ENVELOPE_FIELDS = {"originator_id", "originator_version", "timestamp", "command_id"}


def confidential_fields(event_type: type[Event]) -> set[str]:
    """Returns the names of the event's fields that never leave the service."""
    return annotated(event_type, Confidential)


_PUBLIC_FIELDS: dict[type[Event], tuple[str, ...]] = {
    event_type: tuple(
        field.name
        for field in msgspec.structs.fields(event_type)
        if field.name not in _ENVELOPE_FIELDS | confidential_fields(event_type)
    )
    for event_type in EVENTS.values()
}


_encode = msgspec.json.Encoder().encode
_EVENT_TYPES = {event_type: topics.event_type(name) for name, event_type in EVENTS.items()}
_CONVERTERS: dict[type, Callable[[Any], Any]] = {
    datetime: format_instant,
    Money: lambda money: {"amount": money.amount, "currency": money.currency},
    Terms: msgspec.structs.asdict,
}
"""For each type whose values are published in another form than they are stored: what converts them."""


_CONFIDENTIAL = {name for event_type in EVENTS.values() for name in confidential_fields(event_type)}


def without_confidential(document: Any) -> Any:
    """Returns a read model's decoded JSON without confidential fields, at any depth (D16)."""
    if isinstance(document, dict):
        return {name: without_confidential(value) for name, value in document.items() if name not in _CONFIDENTIAL}
    if isinstance(document, list):
        return [without_confidential(value) for value in document]
    return document


def public_fields(event_type: type[Event]) -> tuple[str, ...]:
    """Returns the names of the fields in the `data` of a public event."""
    return _PUBLIC_FIELDS[event_type]


def public_data(event: Event) -> dict[str, Any]:
    """Returns the `data` of the public event: the stored event's own fields without the confidential ones."""
    data = {}
    for name in _PUBLIC_FIELDS[type(event)]:
        value = getattr(event, name)
        if value is not UNSET:
            convert = _CONVERTERS.get(type(value))
            data[name] = value if convert is None else convert(value)
    return data


def event_envelope(event: Event) -> dict[str, object]:
    """Returns the public event's envelope (docs/messages.md), without confidential fields (D16)."""
    return {
        "specversion": "1.0",
        "id": f"{event.originator_id}:{event.originator_version}",
        "type": _EVENT_TYPES[type(event)],
        "source": topics.SOURCE,
        "subject": event.originator_id,
        "time": format_instant(event.timestamp),
        "sequence": event.originator_version,
        "causationid": event.command_id,
        "data": public_data(event),
    }


def event_message(event: Event) -> bytes:
    """Returns the public event's envelope as JSON."""
    return _encode(event_envelope(event))
