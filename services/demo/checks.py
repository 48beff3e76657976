"""Compares what is in Kafka and in PostgreSQL at the end with the story."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest

from resolution_contracts import COMMAND_TYPES, EVENTS, Code
from resolution_contracts.events import OrderRegistered
from resolution_contracts.values import format_instant

from services.judging.record import Record

from .evidence import Evidence
from .script import Happens, Json, Tale, event_name

_COMPARED = {"outcomes": "outcomes", "events": "events", "read_models": "rows"}


@dataclass(frozen=True)
class Check:
    """The result of one check. It passed if there are no differences."""

    name: str
    detail: str
    differences: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether there are no differences."""
        return not self.differences

    def as_dict(self) -> Json:
        """Returns the check as the narrator prints it."""
        return {"name": self.name, "passed": self.passed, "detail": self.detail, "differences": self.differences}


def verify(evidence: Evidence, tales: Sequence[Tale]) -> list[Check]:
    """Runs all checks. Returns them in the order to print them: first the story's own, then the service's."""
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
    """Checks that every order has the events of its tale, in their order, and no others."""
    by_order = _by_order(events)
    expected = {tale.order: tale.events for tale in tales}
    differences = [
        f"{order}, event {number}: {difference}"
        for order in sorted(by_order.keys() | expected.keys())
        for number, difference in _compare(expected.get(order, []), by_order.get(order, []))
    ]
    return Check("Events on Kafka are the story's", f"{len(events)} of {len(by_order)} orders", differences)


def _compare(expected: Sequence[Happens], found: Sequence[Json]) -> Iterator[tuple[int, str]]:
    for number, (happens, event) in enumerate(zip_longest(expected, found), 1):
        if happens is None:
            yield number, f"nothing expected, found {event_name(event)}"
        elif event is None:
            yield number, f"expected {happens.name}, found nothing"
        elif difference := happens.difference(event):
            yield number, difference


def _as_expected(told: Sequence[Json]) -> Check:
    """Checks that each command got the outcome and the events that the story expects."""
    outcomes = Counter(step["outcome"] for step in told if step["kind"] == "step")
    differences = [f"{step['order']}, {_who(step)}: {step['difference']}" for step in told if step["difference"]]
    detail = f"{outcomes['accepted']} accepted, {outcomes['rejected']} rejected, {outcomes['dead']} dead"
    return Check("Outcomes are the story's", detail, differences)


def _who(step: Json) -> str:
    return f"{step['who']} {step['does']}" if step["kind"] == "step" else str(step["told"])


def _deadlines(events: Sequence[Json]) -> Check:
    """Checks that AutoAccepted and what follows from it have the deadline's time (D3, D18).

    Each order's own terms say how long after the opening that is (D20).
    """
    windows = _windows(events)
    opened = {event["data"]["dispute_id"]: event for event in events if event_name(event) == "DisputeOpened"}
    accepted = [event for event in events if event_name(event) == "AutoAccepted" and event["subject"] in windows]
    differences = []
    for event in (event for event in accepted if event["data"]["dispute_id"] in opened):
        opening = opened[event["data"]["dispute_id"]]
        deadline = format_instant(datetime.fromisoformat(opening["time"]) + windows[event["subject"]])
        same_cause = [other["time"] for other in events if other["causationid"] == event["causationid"]]
        times = {event["data"]["deadline"], opening["data"]["respond_by"], *same_cause}
        if times != {deadline}:
            differences.append(f"{event['subject']}: opened {opening['time']}, auto-accepted {sorted(times)}")
    hours = sorted({windows[event["subject"]] // timedelta(hours=1) for event in accepted})
    after = " or ".join(map(str, hours))
    return Check("Auto-accepted as of the deadline", f"{len(accepted)} times, {after} h after the opening", differences)


def _windows(events: Sequence[Json]) -> dict[str, timedelta]:
    """Returns each order's time to answer. It is in the order's registration, unless it is the help page's (D20)."""
    registered = [event for event in events if event_name(event) == "OrderRegistered"]
    terms = {event["subject"]: OrderRegistered.model_validate(event["data"]).terms for event in registered}
    return {order: timedelta(hours=of_order.response_hours) for order, of_order in terms.items()}


def _confidential(evidence: Evidence, tales: Sequence[Tale]) -> Check:
    """Checks that refund reasons are in the event store and in no published record (D16)."""
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
    """Checks that the story has shown every command in each version, every event and every rejection code."""
    missing = [
        *_missing("command", COMMAND_TYPES, (step.get("type") for step in told)),
        *_missing("event", EVENTS, map(event_name, events)),
        *_missing("rejection", map(str, Code), (step.get("code") for step in told)),
    ]
    return Check(
        "Shown: all there is", f"{len(COMMAND_TYPES)} commands, {len(EVENTS)} events, {len(Code)} rejections", missing
    )


def _missing(what: str, all_of_them: Iterable[str], shown: Iterable[str | None]) -> list[str]:
    return [f"{what} {name} did not occur" for name in sorted(set(all_of_them) - set(shown))]


# --- the service's own checks ---


def _each_record_once(ledger: Json, told: Sequence[Json]) -> Check:
    """Checks with `resolution ledger` that each record of the commands topic led to one outcome or dead letter."""
    accounts = ledger.get("partitions", ())
    records, dead = (sum(account[name] for account in accounts) for name in ("records", "dead"))
    garbage = sum(step.get("outcome") == "dead" for step in told)
    differences = list(ledger["differences"])
    if dead != garbage:
        differences.append(f"{dead} dead letters, but {garbage} records of the story are not commands")
    timers = records - sum(step["kind"] == "step" for step in told)
    return Check("One outcome for each command", f"{records} commands, {timers} of them the timer's", differences)


def _all_follows(verification: Json) -> Check:
    """Checks with `resolution verify`, which judges every command again.

    The store and Kafka have to match the result byte for byte, and the read models have to match a replay.
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
