"""The CloudEvents 1.0 envelopes, structured mode: one JSON object per record."""

import json
from typing import Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from . import topics
from .commands import COMMAND_TYPES, Command
from .events import EVENTS, PublicEvent
from .outcomes import OUTCOMES, Outcome
from .values import CommandId, Instant, OrderId


class Envelope(BaseModel):
    """What all messages share. Unknown attributes are ignored."""

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
        """The message's name without namespace and version: `Accept` of `resolution.command.Accept.v1`."""
        return self.type.split(".")[-2]

    @property
    def version(self) -> int:
        """The message's version: 1 of `resolution.command.Accept.v1`."""
        return int(self.type.rpartition(".v")[2])


class CommandEnvelope(Envelope):
    """A command as other services publish it; `id` is the idempotency key and stays the same in a retry."""

    id: CommandId
    time: Instant | None = None
    data: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, order_id: str, command: Command, *, source: str, id: str | None = None) -> Self:
        """Wraps a command for an order; without an `id` it takes a new UUID."""
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
        """The record's value."""
        return self.model_dump_json(exclude_none=True).encode()

    def command(self) -> Command:
        """The typed command. Raises pydantic.ValidationError where `data` does not fit the schema."""
        return COMMAND_TYPES[self.type].model_validate_json(_json(self.data))


class EventEnvelope(Envelope):
    """An event; `time` is its business time, `sequence` its number in the order, `causationid` the command's id."""

    time: Instant
    sequence: int
    causationid: str
    data: dict[str, Any]

    def event(self) -> PublicEvent:
        """The typed event."""
        return EVENTS[self.name].model_validate_json(_json(self.data))


class OutcomeEnvelope(Envelope):
    """An outcome; `time` is the business time at which the command was judged."""

    time: Instant
    causationid: str
    data: dict[str, Any]

    def outcome(self) -> Outcome:
        """The typed outcome."""
        return OUTCOMES[self.name].model_validate_json(_json(self.data))


class NotificationEnvelope(Envelope):
    """What people are to be told; `time` is the business time at which it fell due."""

    time: Instant
    data: dict[str, Any]


def _json(data: dict[str, Any]) -> str:
    # By way of JSON, because the models are strict: a date is a string on the wire and nowhere else.
    return json.dumps(data)
