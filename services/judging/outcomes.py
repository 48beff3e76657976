"""The messages that say what became of a record, ready to be published, and their rows."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from resolution_contracts import topics
from resolution_contracts.outcomes import CommandAccepted, CommandRejected

from services.orders.events import EVENTS, Event
from services.orders.instants import format_instant
from services.orders.rejections import Rejected

from .dead_letters import RECORDED
from .decode import Received
from .record import Record

_encode = msgspec.json.Encoder().encode
_ACCEPTED, _REJECTED = (topics.outcome_type(outcome.__name__) for outcome in (CommandAccepted, CommandRejected))
_EVENT_TYPES = {event: topics.event_type(name) for name, event in EVENTS.items()}


class OutcomeRow(msgspec.Struct, gc=False):
    """What became of one record of the commands topic; see the table `outcomes`. `events`: how many it appended."""

    partition: int
    offset: int
    kind: str
    message: bytes | None
    order_id: str = ""
    command_id: str = ""
    digest: bytes = b""
    source: str = ""
    events: int = 0
    key: bytes | None = None
    headers: bytes | None = None
    traceparent: str | None = None


class ParkedCommand(msgspec.Struct, gc=False):
    """A record of the commands topic that was not judged.

    `why` says where our code failed; it is empty for a command that only waits behind such a one. `record_time` is the
    record's, in milliseconds since 1970; `headers` a JSON list of [name, base64 of the value].
    """

    partition: int
    record_offset: int
    order_id: str
    command_id: str
    record_time: int
    key: bytes | None
    value: bytes | None
    headers: bytes
    why: str


class _Envelope(msgspec.Struct, kw_only=True, gc=False):
    """The message, in the order of the contract's table."""

    specversion: str = "1.0"
    id: str
    type: str
    source: str = topics.SOURCE
    subject: str
    time: str
    causationid: str
    data: dict[str, Any]


def accepted(received: Received, record: Record, judged_at: datetime, events: Sequence[Event]) -> OutcomeRow:
    """The outcome of a command that was accepted, with the events that follow from it."""
    references = [{"type": _EVENT_TYPES[type(event)], "sequence": event.originator_version} for event in events]
    return _row("accepted", received, record, judged_at, _ACCEPTED, {"events": references}, len(events))


def rejected(received: Received, record: Record, judged_at: datetime, why: Rejected, events: int) -> OutcomeRow:
    """`events`: how many a due auto-acceptance appended all the same."""
    data = {"code": why.code, "message": why.message, "details": why.details}
    return _row("rejected", received, record, judged_at, _REJECTED, data, events)


def reused(received: Received, record: Record, judged_at: datetime, why: Rejected) -> OutcomeRow:
    """The id was used before with other data (D19); the memory keeps the first use."""
    row = rejected(received, record, judged_at, why, 0)
    row.kind = "reused"
    return row


def repeated(received: Received, record: Record, first_message: bytes) -> OutcomeRow:
    """The first outcome again, with `duplicate`."""
    message = msgspec.json.decode(first_message)
    message["data"]["duplicate"] = True
    return _outcome_row("repeated", received, record, _encode(message), 0)


def dead(record: Record, why: str) -> OutcomeRow:
    """The record as it was, with headers that say why and where it came from."""
    added = {
        "error": why,
        "source-topic": record.topic,
        "source-partition": str(record.partition),
        "source-offset": str(record.offset),
        RECORDED: str(record.timestamp),
    }
    headers = [*record.headers, *((name, text.encode()) for name, text in added.items())]
    return OutcomeRow(
        partition=record.partition,
        offset=record.offset,
        kind="dead",
        key=record.key,
        message=record.value,
        headers=_encode(headers),
    )


def _row(
    kind: str, received: Received, record: Record, judged_at: datetime, type_: str, data: dict[str, Any], events: int
) -> OutcomeRow:
    message = _Envelope(
        id=f"{received.order_id}:{received.command_id}",
        type=type_,
        subject=received.order_id,
        time=format_instant(judged_at),
        causationid=received.command_id,
        data={"command_id": received.command_id, "command": received.name, **data},
    )
    return _outcome_row(kind, received, record, _encode(message), events)


def _outcome_row(kind: str, received: Received, record: Record, message: bytes, events: int) -> OutcomeRow:
    return OutcomeRow(
        partition=record.partition,
        offset=record.offset,
        kind=kind,
        message=message,
        order_id=received.order_id,
        command_id=received.command_id,
        digest=received.digest,
        source=received.source,
        events=events,
    )
