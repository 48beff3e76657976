"""Compares all results with what the independent oracle expects: it judges the whole commands topic again.

And the read models against the events.
"""

import asyncio
import json
from collections import Counter, defaultdict
from typing import Any

from aiokafka.partitioner import DefaultPartitioner

from projections import READ_MODELS
from services.audit.findings import Findings
from services.audit.verify_read_models import verify_read_models
from services.judging.record import Record
from services.runtime.installation import clock_of
from services.what_if.change import Change
from services.what_if.comparison import Comparison
from services.what_if.history import compare_shard
from tests.rules.oracle import Oracle
from tests.rules.oracle import Record as Read
from tests.support.installation import PARTITIONS, Installation

Json = dict[str, Any]


async def assert_as_the_oracle_says(installation: Installation) -> int:
    """Every event, outcome and dead letter on Kafka, and every stored event, record by record.

    Returns how many commands that was. Order counts: events and outcomes of an order come in the order of its commands.
    """
    expected = await _expected(installation)
    events, outcomes = _by_order(await installation.events()), _by_order(await installation.outcomes())
    assert events == expected["events"]
    assert {order: [_comparable(o) for o in all_of] for order, all_of in outcomes.items()} == expected["outcomes"]
    dead = await installation.read(installation.topics.dead_letters)
    assert sorted((r.key or b"", r.value or b"") for r in dead) == sorted(expected["dead"])
    _assert_stored(installation, expected["events"])
    await assert_own_terms_make_no_difference(installation)
    return int(expected["commands"])


async def assert_own_terms_make_no_difference(installation: Installation) -> None:
    """Judges history again under the terms that orders had: nothing else may come out (D20)."""
    for shard in installation.settings.shards:
        comparison = Comparison(Change())
        clock = clock_of(shard)
        await asyncio.to_thread(compare_shard, shard, clock, comparison, lambda done, of: None)
        assert comparison.differences == []
        assert comparison.commands == {}
        assert comparison.only_other_times == comparison.unknown == 0
        assert comparison.before == comparison.after


async def _expected(installation: Installation) -> Json:
    oracle, clock = Oracle(), installation.clock
    events: defaultdict[str, list[Json]] = defaultdict(list)
    outcomes: defaultdict[str, list[Json]] = defaultdict(list)
    dead = []
    records = await installation.read(installation.topics.commands)
    for record in records:
        if record.undecodable or not _in_its_partition(record):
            dead.append(_letter(record))
            continue
        time = round(clock.of_record(record.timestamp).timestamp() * 1_000_000)
        judged = oracle.read(Read(record.key, record.value, time))
        if judged.dead:
            dead.append(_letter(record))
            continue
        assert judged.outcome is not None
        order_id = judged.outcome["subject"]
        outcomes[order_id].append(_comparable(judged.outcome))
        for event in judged.events:
            events[order_id].append(_envelope(event))
    return {"events": dict(events), "outcomes": dict(outcomes), "dead": dead, "commands": len(records)}


def _in_its_partition(record: Record) -> bool:
    """Whether a record is in its key's partition. True without a key: that makes it a dead letter anyway."""
    everywhere = list(range(PARTITIONS))
    return record.key is None or DefaultPartitioner()(record.key, everywhere, everywhere) == record.partition


def _letter(record: Record) -> tuple[bytes, bytes]:
    """Returns key and value of the dead letter. Large values are cut off."""
    value = record.value or b""
    return (record.key or b"")[:65536], value if len(value) <= 256 * 1024 else value[:65536]


def _envelope(event: Json) -> Json:
    kind = event["type"]
    return {"specversion": "1.0", "source": "/resolution-center"} | event | {"type": f"resolution.event.{kind}.v1"}


def _comparable(outcome: Json) -> Json:
    """Removes the sentence for people, and the details of schema errors, which the oracle does not model."""
    data = {name: value for name, value in outcome["data"].items() if name != "message"}
    if data.get("code") == "invalid":
        data["details"] = None
    name = outcome["type"].removeprefix("resolution.outcome.").removesuffix(".v1")
    known = {key: outcome[key] for key in ("id", "subject", "time", "causationid")}
    return known | {"type": name, "data": data}


def _by_order(messages: list[Json]) -> dict[str, list[Json]]:
    by_order: defaultdict[str, list[Json]] = defaultdict(list)
    for message in messages:
        by_order[message["subject"]].append(message)
    return dict(by_order)


def _assert_stored(installation: Installation, expected: dict[str, list[Json]]) -> None:
    rows: list[Any] = []
    for shard in range(len(installation.settings.shards)):
        own = installation.query(
            "SELECT originator_id, originator_version, topic, state, notification_id FROM order_events ORDER BY 5",
            shard=shard,
        )
        # Up to there the numbers are shared with other shards: `resolution verify` says whether one is missing.
        [(split,)] = installation.query("SELECT coalesce(max(event_id), 0) FROM splits", shard=shard)
        new = [row[4] for row in own if row[4] > split]
        assert new == list(range(split + 1, split + 1 + len(new))), "notification ids have a gap"
        rows += own
    stored: defaultdict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for order_id, version, topic, state, _ in rows:
        stored[order_id].append((version, topic.removesuffix(".v2"), json.loads(bytes(state))["command_id"]))
    assert dict(stored) == {
        order_id: [(e["sequence"], e["type"].split(".")[2], e["causationid"]) for e in events]
        for order_id, events in expected.items()
    }


async def assert_read_models_count_each_event_once(installation: Installation) -> None:
    """Checks that each row matches a replay, and the metrics match the events on Kafka. Read models must be up to date."""
    assert_read_models_are_as_replayed(installation)
    assert _counted(installation) == _to_count(await installation.events())


def assert_read_models_are_as_replayed(installation: Installation) -> None:
    found = Findings()
    for one in installation.settings.shards:
        verify_read_models(one.database, list(READ_MODELS), found, lambda _: None)
    assert found.differences == []


def _to_count(events: list[Json]) -> Counter[tuple[str, str]]:
    """Counts the metrics of all parties from the published events: orders by role, disputes by who answers."""
    counts: Counter[tuple[str, str]] = Counter()
    answering: dict[str, str] = {}
    for event in events:
        kind, data = event["type"].split(".")[2], event["data"]
        if kind == "OrderRegistered":
            counts["client", "orders"] += 1
            counts["freelancer", "orders"] += 1
        elif kind == "DisputeOpened":
            answering[data["dispute_id"]] = "freelancer" if data["opened_by"] == "client" else "client"
            counts[answering[data["dispute_id"]], "received"] += 1
        elif kind in ("Accepted", "Declined"):
            counts[answering[data["dispute_id"]], "answered"] += 1
        elif kind == "AutoAccepted":
            counts[answering[data["dispute_id"]], "ran_out"] += 1
    return counts


def _counted(installation: Installation) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for role, found in installation.query_all("SELECT role, counts FROM metrics.parties"):
        for name in ("orders", "received", "answered", "ran_out"):
            counts[role, name] += json.loads(bytes(found)).get(name, 0)
    return +counts
