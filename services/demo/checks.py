"""Holds what is in Kafka and in PostgreSQL, once all is over, against the story."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest

from resolution_contracts import COMMANDS, EVENTS, Code
from resolution_contracts.values import format_instant

from services.judging.record import Record

from .evidence import Evidence
from .script import Happens, Json, Tale, event_name

_WINDOW = timedelta(hours=48)
_COMPARED = {"outcomes": "outcomes", "events": "events", "read_models": "rows"}


@dataclass(frozen=True)
class Check:
    """Something that has to hold; `differences` say where it does not."""

    name: str
    detail: str
    differences: Sequence[str]

    @property
    def passed(self) -> bool:
        return not self.differences

    def as_dict(self) -> Json:
        return {"name": self.name, "passed": self.passed, "detail": self.detail, "differences": self.differences}


def verify(evidence: Evidence, tales: Sequence[Tale]) -> list[Check]:
    """All checks, in the order in which they are told: the story's own, then the service's."""
    events = [_envelope(record) for record in evidence.events]
    return [
        _history(events, tales),
        _as_expected(evidence.told),
        _deadlines(events),
        _confidential(evidence, tales),
        _everything_shown(evidence.told, events),
        _each_record_once(evidence.ledger, evidence.told),
        _all_follows(evidence.verification),
    ]


# --- the story's checks ---


def _history(events: Sequence[Json], tales: Sequence[Tale]) -> Check:
    """Every order's events are those of its tale, in their order, and there are no others."""
    found = _by_order(events)
    expected = {tale.order: tale.events for tale in tales}
    differences = [
        f"{order}, event {number}: {difference}"
        for order in sorted(found.keys() | expected.keys())
        for number, difference in _compare(expected.get(order, []), found.get(order, []))
    ]
    return Check("Events on Kafka are the story's", f"{len(events)} of {len(found)} orders", differences)


def _compare(expected: Sequence[Happens], found: Sequence[Json]) -> Iterator[tuple[int, str]]:
    for number, (happens, event) in enumerate(zip_longest(expected, found), 1):
        if happens is None:
            yield number, f"nothing expected, found {event_name(event)}"
        elif event is None:
            yield number, f"expected {happens.name}, found nothing"
        elif difference := happens.difference(event):
            yield number, difference


def _as_expected(told: Sequence[Json]) -> Check:
    """Each command got the outcome that the story expects, with the events that it names."""
    became = Counter(step["outcome"] for step in told if step["kind"] == "step")
    differences = [f"{step['order']}, {_who(step)}: {step['difference']}" for step in told if step["difference"]]
    detail = f"{became['accepted']} accepted, {became['rejected']} rejected, {became['dead']} dead"
    return Check("Outcomes are the story's", detail, differences)


def _who(step: Json) -> str:
    return f"{step['who']} {step['does']}" if step["kind"] == "step" else str(step["told"])


def _deadlines(events: Sequence[Json]) -> Check:
    """AutoAccepted and what follows from it carry the deadline, which is 48 hours after the opening (D3, D18)."""
    opened = {event["data"]["dispute_id"]: event for event in events if event_name(event) == "DisputeOpened"}
    accepted = [event for event in events if event_name(event) == "AutoAccepted"]
    differences = []
    for event in (one for one in accepted if one["data"]["dispute_id"] in opened):
        opening = opened[event["data"]["dispute_id"]]
        deadline = format_instant(datetime.fromisoformat(opening["time"]) + _WINDOW)
        same_cause = [one["time"] for one in events if one["causationid"] == event["causationid"]]
        times = {event["data"]["deadline"], opening["data"]["respond_by"], *same_cause}
        if times != {deadline}:
            differences.append(f"{event['subject']}: opened {opening['time']}, auto-accepted {sorted(times)}")
    return Check("Auto-accepted as of the deadline", f"{len(accepted)} times, 48 h after the opening", differences)


def _confidential(evidence: Evidence, tales: Sequence[Tale]) -> Check:
    """Refund reasons are in the event store and nowhere in what is published (D16)."""
    reasons = sorted(
        step.data["reason"]
        for tale in tales
        for step in tale.sent
        if step.command == "OfferPartialRefund" and step.expected.new_events
    )
    differences = [
        f"{record.topic}, key {record.key!r}: {reason} is in it"
        for record in (*evidence.events, *evidence.outcomes)
        for reason in set(reasons)
        if reason.encode() in (record.value or b"")
    ]
    if sorted(evidence.refund_reasons) != reasons:
        differences.append(f"stored are {sorted(evidence.refund_reasons)}, the story has {reasons}")
    return Check("Refund reasons stay confidential", f"{len(reasons)} stored, none published", differences)


def _everything_shown(told: Sequence[Json], events: Sequence[Json]) -> Check:
    """The story has shown every command, event and code there is."""
    missing = [
        *_missing("command", COMMANDS, (step.get("command") for step in told)),
        *_missing("event", EVENTS, map(event_name, events)),
        *_missing("rejection", map(str, Code), (step.get("code") for step in told)),
    ]
    return Check(
        "Shown: all there is", f"{len(COMMANDS)} commands, {len(EVENTS)} events, {len(Code)} rejections", missing
    )


def _missing(what: str, all_of_them: Iterable[str], shown: Iterable[str | None]) -> list[str]:
    return [f"{what} {name} did not occur" for name in sorted(set(all_of_them) - set(shown))]


# --- the service's own checks ---


def _each_record_once(ledger: Json, told: Sequence[Json]) -> Check:
    """As `resolution ledger` says: each record of the commands topic led to one outcome or dead letter."""
    records, dead = (sum(each[name] for each in ledger.get("partitions", ())) for name in ("records", "dead"))
    garbage = sum(step.get("outcome") == "dead" for step in told)
    differences = list(ledger["differences"])
    if dead != garbage:
        differences.append(f"{dead} dead letters, and {garbage} records of the story are no commands")
    timers = records - sum(step["kind"] == "step" for step in told)
    return Check("One outcome for each command", f"{records} commands, {timers} of them the timer's", differences)


def _all_follows(verification: Json) -> Check:
    """As `resolution verify` says, which judges every command again.

    What is stored and what is on Kafka has to be what comes out, byte for byte, and read models what a replay gives.
    """
    counts = [f"{verification.get(name, 0)} {word}" for name, word in _COMPARED.items()]
    return Check("Store, topics and pages agree", ", ".join(counts), verification["differences"])


# --- reading records ---


def _envelope(record: Record) -> Json:
    envelope: Json = json.loads(record.value or b"")
    return envelope


def _by_order(events: Iterable[Json]) -> dict[str, list[Json]]:
    orders: defaultdict[str, list[Json]] = defaultdict(list)
    for event in events:
        orders[event["subject"]].append(event)
    return dict(orders)
