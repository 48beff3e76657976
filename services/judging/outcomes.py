"""Makes outcomes: what became of each record, with the message that the relay publishes about it."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from resolution_contracts import topics
from resolution_contracts.outcomes import CommandAccepted, CommandRejected

from services.orders.events import EVENTS, Event
from services.orders.instants import format_instant
from services.orders.rejections import Rejected

from .dead_letters import SOURCE_TIMESTAMP
from .decode import Received
from .record import Record

_encode = msgspec.json.Encoder().encode
_ACCEPTED, _REJECTED = (topics.outcome_type(outcome.__name__) for outcome in (CommandAccepted, CommandRejected))
_EVENT_TYPES = {event: topics.event_type(name) for name, event in EVENTS.items()}


class OutcomeKind(StrEnum):
    """What became of a record of the commands topic; the column `kind` of the table `outcomes`."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    REPEATED = "repeated"
    """The command id was used before with the same data. The sender gets the first outcome again."""
    REUSED = "reused"
    """The command id was used before with other data, or the outcome of the first use was retired."""
    DEAD = "dead"
    """The record is not a command, and is a dead letter."""
    RETIRED = "retired"
    """Never stored. Stands for an outcome that was retired: only its events are left."""

    @property
    def is_first_use(self) -> bool:
        """Whether the command id had not been used before: only then can events follow from it."""
        return self is OutcomeKind.ACCEPTED or self is OutcomeKind.REJECTED

    @property
    def is_repeat(self) -> bool:
        """Whether the command id had been used before."""
        return self is OutcomeKind.REPEATED or self is OutcomeKind.REUSED


class Outcome(msgspec.Struct, gc=False):
    """What became of one record of the commands topic, as the table `outcomes` has it."""

    kind: OutcomeKind
    """What became of the record."""
    partition: int
    """The record's partition."""
    record_offset: int
    """The record's offset."""
    message: bytes | None
    """The outcome's envelope. For a dead letter: the record's value."""
    order_id: str
    """Empty for a dead letter, as are `command_id`, `digest` and `source`."""
    command_id: str
    """The command's id, as its sender wrote it."""
    digest: bytes
    """Hash of the command's name and data: distinguishes a repeat from a reused id."""
    source: str
    """Who sent the command."""
    key: bytes | None
    """The record's key. Only for a dead letter."""
    headers: bytes | None
    """The headers to publish a dead letter with: a JSON list of [name, Base64 of the value]."""
    traceparent: str | None
    """The trace context of the command, if its sender traces it."""


class JudgedOutcome(Outcome, gc=False):
    """An outcome that is not stored yet."""

    events: int
    """How many events are stored with it."""


class ParkedCommand(msgspec.Struct, gc=False):
    """A record of the commands topic that was not judged."""

    partition: int
    """The record's partition."""
    record_offset: int
    """The record's offset."""
    order_id: str
    """The parked order."""
    command_id: str
    """The command's id; empty if the command could not be read."""
    record_time: int
    """The record's timestamp, in milliseconds since 1970."""
    key: bytes | None
    """The record's key."""
    value: bytes | None
    """The record's value."""
    headers: bytes
    """The record's headers: a JSON list of [name, Base64 of the value]."""
    why: str
    """Where our code failed. Empty for a command that waits because an earlier command of its order is parked."""


class _Envelope(msgspec.Struct, kw_only=True, gc=False):
    """An outcome's envelope. The fields are in the order of the contract's table."""

    specversion: str = "1.0"
    id: str
    type: str
    source: str = topics.SOURCE
    subject: str
    time: str
    causationid: str
    data: dict[str, Any]


def accepted(received: Received, record: Record, judged_at: datetime, events: Sequence[Event]) -> JudgedOutcome:
    """Makes the outcome of an accepted command. It names the events that follow from the command."""
    references = [{"type": _EVENT_TYPES[type(event)], "sequence": event.originator_version} for event in events]
    return _row(OutcomeKind.ACCEPTED, received, record, judged_at, _ACCEPTED, {"events": references}, len(events))


def rejected(received: Received, record: Record, judged_at: datetime, why: Rejected, events: int) -> JudgedOutcome:
    """Makes the outcome of a rejected command. `events`: how many events a due auto-acceptance added."""
    data = {"code": why.code, "message": why.message, "details": why.details}
    return _row(OutcomeKind.REJECTED, received, record, judged_at, _REJECTED, data, events)


def reused(received: Received, record: Record, judged_at: datetime, why: Rejected) -> JudgedOutcome:
    """Makes the outcome of a command whose id was used before with other data (D19). The first use still counts."""
    row = rejected(received, record, judged_at, why, 0)
    row.kind = OutcomeKind.REUSED
    return row


def repeated(received: Received, record: Record, first_message: bytes) -> JudgedOutcome:
    """Makes the outcome of a repeat: the first outcome, with `duplicate: true`."""
    message = msgspec.json.decode(first_message)
    message["data"]["duplicate"] = True
    return _outcome_row(OutcomeKind.REPEATED, received, record, _encode(message), 0)


def dead(record: Record, why: str) -> JudgedOutcome:
    """Makes a dead letter: the record unchanged, with added headers that say why, and where the record was."""
    added = {
        "error": why,
        "source-topic": record.topic,
        "source-partition": str(record.partition),
        "source-offset": str(record.offset),
        SOURCE_TIMESTAMP: str(record.timestamp),
    }
    headers = [*record.headers, *((name, text.encode()) for name, text in added.items())]
    return JudgedOutcome(
        OutcomeKind.DEAD,
        record.partition,
        record.offset,
        record.value,
        order_id="",
        command_id="",
        digest=b"",
        source="",
        key=record.key,
        headers=_encode(headers),
        traceparent=None,
        events=0,
    )


def _row(
    kind: OutcomeKind,
    received: Received,
    record: Record,
    judged_at: datetime,
    type_: str,
    data: dict[str, Any],
    events: int,
) -> JudgedOutcome:
    message = _Envelope(
        id=f"{received.order_id}:{received.command_id}",
        type=type_,
        subject=received.order_id,
        time=format_instant(judged_at),
        causationid=received.command_id,
        data={"command_id": received.command_id, "command": received.name, **data},
    )
    return _outcome_row(kind, received, record, _encode(message), events)


def _outcome_row(kind: OutcomeKind, received: Received, record: Record, message: bytes, events: int) -> JudgedOutcome:
    return JudgedOutcome(
        kind,
        record.partition,
        record.offset,
        message,
        received.order_id,
        received.command_id,
        received.digest,
        received.source,
        None,
        None,
        None,
        events,
    )
