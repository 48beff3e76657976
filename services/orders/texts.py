"""What people wrote on an order, and its confidential fields: all that an erasure takes away, and nothing else."""

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from .events import EVENTS, Confidential, Event, Written, annotated

E = TypeVar("E", bound=Event)

ERASED = "[erased]"
"""Stands where a text was."""


_WRITTEN = {event_type: sorted(annotated(event_type, Written)) for event_type in EVENTS.values()}
_CONFIDENTIAL = {event_type: sorted(annotated(event_type, Confidential)) for event_type in EVENTS.values()}
_TEXTS = {kind: (*_WRITTEN[kind], *_CONFIDENTIAL[kind]) for kind in EVENTS.values()}
_PUBLIC = sorted({name for names in _WRITTEN.values() for name in names})

WITH_TEXTS = frozenset(kind for kind, names in _TEXTS.items() if names)
"""The events that can have any."""


def texts(event: Event) -> dict[str, str]:
    """The texts of an event by the fields' names; empty where it has none."""
    found = {}
    for name in _TEXTS[type(event)]:
        value = getattr(event, name)
        if value is not None and value is not UNSET:
            found[name] = value
    return found


def without_texts(event: E) -> E:
    """The event as it is once its texts are erased."""
    return without(event, texts(event))


def without(event: E, found: Iterable[str]) -> E:
    """The same, where the fields of its texts are known."""
    gone = {name: UNSET if name in _CONFIDENTIAL[type(event)] else ERASED for name in found}
    return msgspec.structs.replace(event, **gone) if gone else event


def published_without_texts(value: bytes) -> bytes:
    """A public event's envelope as it is published once its texts are erased; what is no envelope, as it is."""
    try:
        envelope: dict[str, Any] = msgspec.json.decode(value)
        data = envelope["data"]
        envelope["data"] = data | {name: ERASED for name in _PUBLIC if data.get(name) is not None}
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return value
    return msgspec.json.encode(envelope)
