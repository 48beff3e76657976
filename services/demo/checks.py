"""Holds what is in Kafka and in PostgreSQL, once all is over, against the story."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest

from resolution_contracts import COMMANDS, EVENTS, Code, OfferPartialRefund
from resolution_contracts.values import format_instant

from services.judging.record import Record
from services.orders.texts import published_without_texts

from .evidence import Evidence
from .script import Dead, Happens, Json, Step, Taken, Tale, event_name

_WINDOW = timedelta(hours=48)


@dataclass(frozen=True)
class Check:
    """Something that has to hold; `differences` say where it does not."""

    name: str
    detail: str
    differences: Sequence[str]

    @property
    def passed(self) -> bool:
        return not self.differences


def verify(evidence: Evidence, tales: Sequence[Tale]) -> list[Check]:
    """All checks, in the order in which they are told."""
    events = [_envelope(record) for record in evidence.events]
    outcomes = [_envelope(record) for record in evidence.outcomes]
    return [
        _history(events, tales),
        _numbers(events),
        _partitions(evidence),
        _every_command_once(evidence, outcomes),
        _as_expected(outcomes, tales),
        _dead_letters(evidence.dead_letters, tales),
        _deadlines(events),
        _confidential(evidence, tales),
        _stored(evidence, events),
        _pages(evidence),
        _everything_shown(evidence, events, outcomes),
    ]


# --- Kafka ---


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


def _numbers(events: Sequence[Json]) -> Check:
    """Sequences run from 1 without a gap, in the order of the log, and business time never goes back."""
    differences = []
    for order, its_events in _by_order(events).items():
        sequences = [event["sequence"] for event in its_events]
        if sequences != list(range(1, len(its_events) + 1)):
            differences.append(f"{order}: {sequences}")
        times = [event["time"] for event in its_events]
        if times != sorted(times):
            differences.append(f"{order}: business time goes back in {times}")
    return Check("Numbered without a gap", "from 1, and time never goes back", differences)


def _partitions(evidence: Evidence) -> Check:
    """An order's commands, events and outcomes share a partition number, and their key is its id."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for record in (*evidence.commands, *evidence.events, *evidence.outcomes):
        found[(record.key or b"").decode()].add(record.partition)
    differences = [f"{order}: {sorted(numbers)}" for order, numbers in found.items() if len(numbers) > 1]
    used = len(set().union(*found.values()))
    return Check("Each order keeps to one partition", f"{len(found)} orders in {used} partitions", differences)


def _every_command_once(evidence: Evidence, outcomes: Sequence[Json]) -> Check:
    """As many outcomes with an id as commands with it; a record that is none has its dead letter."""
    dead = {_place(record) for record in evidence.dead_letters}
    readable = [r for r in evidence.commands if (r.partition, r.offset) not in dead]
    asked = Counter((command["subject"], command["id"]) for command in map(_envelope, readable))
    answered = Counter((outcome["subject"], outcome["causationid"]) for outcome in outcomes)
    differences = [
        f"{order}, command {command_id}: sent {asked[order, command_id]} times, answered {answered[order, command_id]}"
        for order, command_id in sorted(asked.keys() | answered.keys())
        if asked[order, command_id] != answered[order, command_id]
    ]
    own = sum("timer" in _envelope(record)["source"] for record in readable)
    detail = f"{len(readable)} commands, {own} of them the timer's"
    return Check("One outcome for each command", detail, differences)


def _as_expected(outcomes: Sequence[Json], tales: Sequence[Tale]) -> Check:
    """The outcomes of the story's commands, those of a repeated id in the order sent."""
    found: defaultdict[tuple[str, str], list[Json]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome["subject"], outcome["causationid"]].append(outcome)
    differences, rejected = [], 0
    steps = [(tale.order, step) for tale in tales for step in tale.sent if not isinstance(step.expected, Dead)]
    for order, step in steps:
        its_outcomes = found[order, step.id]
        outcome = its_outcomes.pop(0) if its_outcomes else {"dead": "nothing"}
        rejected += "code" in outcome.get("data", {})
        if difference := step.expected.difference(outcome):
            differences.append(f"{order}, {step.who.name} {step.does}: {difference}")
    detail = f"{len(steps) - rejected} accepted, {rejected} rejected"
    return Check("Outcomes are the story's", detail, differences)


def _dead_letters(dead_letters: Sequence[Record], tales: Sequence[Tale]) -> Check:
    """The story's garbage and nothing else, unchanged, with the reason."""
    garbage = {_record_of(tale, step): step for tale in tales for step in tale.sent if isinstance(step.expected, Dead)}
    found = {((r.key or b"").decode(), r.value or b""): dict(r.headers) for r in dead_letters}
    differences = [f"{order}: {value!r} is missing" for order, value in garbage.keys() - found.keys()]
    differences += [f"{order}: {value!r} is not of the story" for order, value in found.keys() - garbage.keys()]
    for record in garbage.keys() & found.keys():
        reason = (found[record].get("error") or b"").decode()
        if difference := garbage[record].expected.difference({"dead": reason}):
            differences.append(f"{record[0]}: {difference}")
    return Check("Dead letters are the story's garbage", f"{len(dead_letters)}, unchanged, with reason", differences)


def _deadlines(events: Sequence[Json]) -> Check:
    """AutoAccepted and what follows from it carry the deadline, which is 48 hours after the opening (D3, D18)."""
    differences, count = [], 0
    for order, its_events in _by_order(events).items():
        opened = {e["data"]["dispute_id"]: e for e in its_events if event_name(e) == "DisputeOpened"}
        for event in its_events:
            if event_name(event) != "AutoAccepted":
                continue
            count += 1
            opening = opened.get(event["data"]["dispute_id"])
            if opening is None:
                differences.append(f"{order}: auto-accepted, but never opened")
                continue
            deadline = format_instant(datetime.fromisoformat(opening["time"]) + _WINDOW)
            same_cause = [e for e in its_events if e["causationid"] == event["causationid"]]
            times = {event["data"]["deadline"], opening["data"]["respond_by"], *(e["time"] for e in same_cause)}
            if times != {deadline}:
                differences.append(f"{order}: opened {opening['time']}, auto-accepted {sorted(times)}")
    return Check("Auto-accepted as of the deadline", f"{count} times, 48 h after the opening", differences)


def _confidential(evidence: Evidence, tales: Sequence[Tale]) -> Check:
    """Refund reasons are in the event store and nowhere in what is published (D16)."""
    offers = [step.what for tale in tales for step in tale.sent if _opens_refund(step)]
    reasons = sorted(str(offer.reason) for offer in offers if isinstance(offer, OfferPartialRefund))
    differences = [
        f"{record.topic}, key {record.key!r}: {reason} is in it"
        for record in (*evidence.events, *evidence.outcomes)
        for reason in set(reasons)
        if reason.encode() in (record.value or b"")
    ]
    if sorted(evidence.stored.refund_reasons) != reasons:
        differences.append(f"stored are {sorted(evidence.stored.refund_reasons)}, the story has {reasons}")
    return Check("Refund reasons stay confidential", f"{len(reasons)} stored, none published", differences)


def _opens_refund(step: Step) -> bool:
    return isinstance(step.what, OfferPartialRefund) and isinstance(step.expected, Taken) and not step.expected.again


# --- PostgreSQL ---


def _stored(evidence: Evidence, events: Sequence[Json]) -> Check:
    """The event store holds what is on Kafka, event for event, in each order's order; but texts that were erased."""
    erased = {event["subject"] for event in events if event_name(event) == "OrderTextsErased"}
    published, stored = _by_order(_as_erased(event, erased) for event in events), _by_order(evidence.stored.events)
    differences = list(evidence.stored.unreadable)
    nothing: Json = {}
    for order in sorted(published.keys() | stored.keys()):
        pairs = zip_longest(published.get(order, []), stored.get(order, []), fillvalue=nothing)
        differences += [
            f"{order}, event {number}: {_what_differs(on_kafka, in_store)}"
            for number, (on_kafka, in_store) in enumerate(pairs, 1)
            if on_kafka != in_store
        ]
    return Check("PostgreSQL holds the same events", f"{len(evidence.stored.events)}, event for event", differences)


def _as_erased(event: Json, erased: set[str]) -> Json:
    """As it reads now; it may have been published before."""
    return json.loads(published_without_texts(json.dumps(event).encode())) if event["subject"] in erased else event


def _what_differs(on_kafka: Json, in_store: Json) -> str:
    if not on_kafka or not in_store:
        return f"only {'on Kafka' if on_kafka else 'in PostgreSQL'}"
    kafka, store = on_kafka | on_kafka["data"], in_store | in_store["data"]
    names = sorted(n for n in kafka.keys() | store.keys() if n != "data" and kafka.get(n) != store.get(n))
    return "; ".join(f"{name} is {kafka.get(name)} on Kafka, {store.get(name)} in PostgreSQL" for name in names)


def _pages(evidence: Evidence) -> Check:
    """Every order page says what a replay of the order's history says."""
    differences = [
        f"{order}: the page says {page}, a replay {evidence.replays[order]}"
        for order, page in evidence.pages.items()
        if page != evidence.replays[order]
    ]
    shown = sum(page is not None for page in evidence.pages.values())
    return Check("Order pages agree with a replay", f"{shown} pages", differences)


# --- the story itself ---


def _everything_shown(evidence: Evidence, events: Sequence[Json], outcomes: Sequence[Json]) -> Check:
    """The story has shown every command, event and code there is."""
    dead = {_place(record) for record in evidence.dead_letters}
    commands = {event_name(_envelope(r)) for r in evidence.commands if (r.partition, r.offset) not in dead}
    codes = {outcome["data"]["code"] for outcome in outcomes if "code" in outcome["data"]}
    missing = [
        *_missing("command", COMMANDS, commands),
        *_missing("event", EVENTS, map(event_name, events)),
        *_missing("rejection", {str(code) for code in Code}, codes),
    ]
    return Check(
        "Shown: all there is", f"{len(COMMANDS)} commands, {len(EVENTS)} events, {len(Code)} rejections", missing
    )


def _missing(what: str, all_of_them: Iterable[str], shown: Iterable[str]) -> list[str]:
    return [f"{what} {name} did not occur" for name in sorted(set(all_of_them) - set(shown))]


# --- reading records ---


def _envelope(record: Record) -> Json:
    envelope: Json = json.loads(record.value or b"")
    return envelope


def _place(dead_letter: Record) -> tuple[int, int]:
    """Partition and offset of the record on the commands topic."""
    headers = dict(dead_letter.headers)
    return int(headers["source-partition"] or b""), int(headers["source-offset"] or b"")


def _record_of(tale: Tale, step: Step) -> tuple[str, bytes]:
    return tale.order, step.record(tale.order)


def _by_order(events: Iterable[Json]) -> dict[str, list[Json]]:
    orders: defaultdict[str, list[Json]] = defaultdict(list)
    for event in events:
        orders[event["subject"]].append(event)
    return dict(orders)
