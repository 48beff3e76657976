"""The envelopes of all messages: CloudEvents 1.0 in structured mode, one JSON object per record."""

import json
from typing import Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from . import topics
from .commands import COMMAND_TYPES, Command
from .events import EVENTS, PublicEvent
from .outcomes import OUTCOMES, Outcome
from .values import CommandId, Instant, OrderId, PublishedInstant


class Envelope(BaseModel):
    """The attributes that all messages share. Unknown attributes are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"] = "1.0"
    id: str
    type: str
    source: str = Field(min_length=1)
    subject: OrderId

    @property
    def key(self) -> bytes:
        """The record's key: the order id."""
        return self.subject.encode()

    @property
    def name(self) -> str:
        """The message's name without namespace and version: `Accept` for `resolution.command.Accept.v1`."""
        return self.type.split(".")[-2]

    @property
    def version(self) -> int:
        """The message's version: 1 for `resolution.command.Accept.v1`."""
        return int(self.type.rpartition(".v")[2])


class CommandEnvelope(Envelope):
    """A command as other services publish it. `id` is the idempotency key: a retry must use the same `id`."""

    id: CommandId
    time: Instant | None = None
    data: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, order_id: str, command: Command, *, source: str, id: str | None = None) -> Self:
        """Wraps a command for an order. Uses a new UUID if `id` is None."""
        return cls(
            id=id or str(uuid4()),
            type=command.type(),
            source=source,
            subject=order_id,
            data=command.model_dump(mode="json", exclude_none=True),
        )

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """The Kafka headers to send with the record."""
        return [("content-type", topics.CONTENT_TYPE.encode())]

    def to_json(self) -> bytes:
        """Returns the record's value."""
        return self.model_dump_json(exclude_none=True).encode()

    def command(self) -> Command:
        """Returns the typed command.

        Raises pydantic.ValidationError if `data` does not fit the schema, and KeyError for an unknown type.
        """
        return COMMAND_TYPES[self.type].model_validate_json(_json(self.data))


class EventEnvelope(Envelope):
    """An event. `time` is its business time, `sequence` its number in the order, `causationid` the command's id."""

    time: PublishedInstant
    sequence: int
    causationid: str
    data: dict[str, Any]

    def event(self) -> PublicEvent:
        """Returns the typed event. Raises pydantic.ValidationError, and KeyError for an unknown event."""
        return EVENTS[self.name].model_validate_json(_json(self.data))


class OutcomeEnvelope(Envelope):
    """An outcome. `time` is the business time at which the command was judged, `causationid` the command's id."""

    time: PublishedInstant
    causationid: str
    data: dict[str, Any]

    def outcome(self) -> Outcome:
        """Returns the typed outcome. Raises pydantic.ValidationError, and KeyError for an unknown outcome."""
        return OUTCOMES[self.name].model_validate_json(_json(self.data))


class NotificationEnvelope(Envelope):
    """A message that other services pass on to a person. `time` is the business time at which it fell due."""

    time: PublishedInstant
    data: dict[str, Any]


def _json(data: dict[str, Any]) -> str:
    # The models are strict: they take a string for a date only if they read JSON.
    return json.dumps(data)
