"""Finds and removes what an erasure removes from an order's events: what people wrote, and confidential fields."""

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from .events import EVENTS, Confidential, Event, Written, annotated

E = TypeVar("E", bound=Event)

ERASED = "[erased]"
"""Replaces an erased text."""


_WRITTEN = {event_type: sorted(annotated(event_type, Written)) for event_type in EVENTS.values()}
_CONFIDENTIAL = {event_type: sorted(annotated(event_type, Confidential)) for event_type in EVENTS.values()}
_TEXTS = {kind: (*_WRITTEN[kind], *_CONFIDENTIAL[kind]) for kind in EVENTS.values()}
_PUBLIC = sorted({name for names in _WRITTEN.values() for name in names})

WITH_TEXTS = frozenset(kind for kind, names in _TEXTS.items() if names)
"""The classes of events that can have texts or confidential fields."""


def texts(event: Event) -> dict[str, str]:
    """Returns the event's texts and confidential fields, by field name."""
    values = {}
    for name in _TEXTS[type(event)]:
        value = getattr(event, name)
        if value is not None and value is not UNSET:
            values[name] = value
    return values


def without_texts(event: E) -> E:
    """Returns the event as it is after an erasure."""
    return without(event, texts(event))


def without(event: E, fields: Iterable[str]) -> E:
    """Returns the event with these fields erased: texts are replaced by `ERASED`, confidential fields are unset."""
    erased = {name: UNSET if name in _CONFIDENTIAL[type(event)] else ERASED for name in fields}
    return msgspec.structs.replace(event, **erased) if erased else event


def published_without_texts(value: bytes) -> bytes:
    """Returns a public event's envelope as the relay publishes it after an erasure.

    Returns the value unchanged if it is not an envelope.
    """
    try:
        envelope: dict[str, Any] = msgspec.json.decode(value)
        data = envelope["data"]
        envelope["data"] = data | {name: ERASED for name in _PUBLIC if data.get(name) is not None}
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return value
    return msgspec.json.encode(envelope)
