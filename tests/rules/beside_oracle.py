"""Whatever a test of the rules sends to the service goes to the oracle as well, and both must say the same."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from resolution_contracts import EventEnvelope, OutcomeEnvelope

from services.judging.decode import Received, Unreadable, decode
from services.judging.judge import Judged
from services.judging.outcomes import JudgedOutcome
from services.judging.record import Record
from services.orders import Rejected
from services.orders.events import Event
from services.orders.public_events import event_envelope
from tests.rules import oracle
from tests.support.controls import T

Json = dict[str, Any]
SOURCE = {"specversion": "1.0", "source": "/resolution-center"}


def read_by_oracle(asked: oracle.Oracle, record: Record, time: datetime) -> oracle.Judged:
    micros = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return asked.read(oracle.Record(record.key, record.value, micros))


def decoded(record: Record) -> Received:
    """Reads one record. The oracle must take, refuse or bury it as the service does. Raises Unreadable."""
    said = read_by_oracle(oracle.Oracle(), record, T)
    try:
        received = decode(record, T, None)
    except Unreadable:
        assert said.dead
        raise
    assert said.outcome is not None
    assert (said.outcome["data"].get("code") == "invalid") == isinstance(received.command, Rejected)
    return received


def assert_same(judged: Judged, said: Sequence[oracle.Judged]) -> None:
    """What the service made of a batch, and what the oracle says of each of its records."""
    events = iter(judged.events)
    for row, one in zip(judged.outcomes, said, strict=True):
        own = [next(events) for _ in range(row.events)]
        assert [as_published(event) for event in own] == [event_of(event) for event in one.events]
        assert (row.kind == "dead") == one.dead, one
        if not one.dead:
            assert without_words(row) == outcome_of(one.outcome)
    assert next(events, None) is None


def as_published(event: Event) -> Json:
    """As JSON, after other teams' own reader has understood it."""
    text = json.dumps(event_envelope(event))
    EventEnvelope.model_validate_json(text).event()
    return dict(json.loads(text))


def event_of(said: Json) -> Json:
    return said | SOURCE | {"type": f"resolution.event.{said['type']}.v1"}


def outcome_of(said: Json | None) -> Json:
    assert said is not None
    details = {"details": "invalid"} if said["data"].get("code") == "invalid" else {}
    return said | SOURCE | {"type": f"resolution.outcome.{said['type']}.v1", "data": said["data"] | details}


def without_words(row: JudgedOutcome) -> Json:
    """Without the sentence for a person, and what exactly the schema refused, which the oracle does not model."""
    outcome = json.loads(row.message or b"")
    OutcomeEnvelope.model_validate(outcome).outcome()
    data = dict(outcome["data"])
    if "code" in data:
        assert data.pop("message").endswith(".")
    if data.get("code") == "invalid":
        assert all(set(error) == {"path", "reason"} for error in data["details"].pop("errors"))
        assert data["details"] == {}
        data["details"] = "invalid"
    return dict(outcome | {"data": data})
