"""The soak's own judgement: it would be worth nothing if it could not find something lost, twice, or growing."""

import itertools
import json
import random
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from resolution_contracts import CommandEnvelope

from bench.load import marketplace
from bench.soak import lost_or_twice, verdict
from bench.traffic import Traffic
from services.orders import Order
from services.runtime.roles import ROLES
from tests.support.decisions import carry_out

_COUNTS = {"commands": 105, "of the timer": 5, "stored": 105, "dead": 2, "outcomes": 103, "dead letters": 2}
_NOW = datetime(2026, 3, 1, tzinfo=UTC)
_SENT = {"sent": 100, "garbage": 2, "failed": 0, "unexpected": 0}


def _failures(counts: dict[str, int] = {}, **sent: int) -> list[str]:  # noqa: B006 (only read)
    return lost_or_twice(_COUNTS | counts, SimpleNamespace(**_SENT | sent))  # type: ignore[arg-type]


def test_nothing_is_lost_where_all_counts_agree():
    assert _failures() == []


@pytest.mark.parametrize("what", ["commands", "stored", "dead", "outcomes", "dead letters"])
@pytest.mark.parametrize("by", [-1, 1])
def test_one_record_less_or_more_is_a_failure(what: str, by: int):
    assert _failures({what: _COUNTS[what] + by})


@pytest.mark.parametrize("what", ["failed", "unexpected"])
def test_what_the_sender_saw_is_a_failure(what: str):
    assert len(_failures(**{what: 1})) == 1


class _Producer:
    """Takes all that is sent, and keeps it."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bytes, int]] = []

    async def send(self, topic: str, *, key: bytes, value: bytes, partition: int) -> Any:
        self.sent.append((key, value, partition))
        return SimpleNamespace(add_done_callback=lambda callback: None)

    async def flush(self) -> None: ...


async def test_an_outcome_that_comes_twice_is_not_expected_and_one_that_is_missing_is_not_answered():
    producer = _Producer()
    traffic = Traffic(producer, "commands", seed=1)  # type: ignore[arg-type]
    await traffic.burst(2000)
    sampled = [(key, value) for key, value, partition in producer.sent if partition == 0 and value != b"garbage"]
    outcomes = [_outcome(json.loads(value)) for _, value in sampled]
    for outcome in outcomes[1:]:
        traffic.answered(outcome, 0.0)
    assert (traffic.unanswered, traffic.unexpected) == (1, 0)
    traffic.answered(outcomes[0], 0.0)
    traffic.answered(_outcome({"subject": "any", "id": "any", "type": "resolution.command.ExpireDispute.v1"}), 0.0)
    taken, late = traffic.times()
    assert (traffic.unanswered, traffic.unexpected) == (0, 0)
    assert len(taken) == len(late) == len(sampled)
    traffic.answered(outcomes[0], 0.0)
    assert traffic.unexpected == 1


def _outcome(command: dict[str, Any]) -> bytes:
    name = command["type"].split(".")[2]
    return json.dumps({"subject": command["subject"], "causationid": command["id"], "data": {"command": name}}).encode()


def test_memory_that_grows_and_latency_that_grows_are_told_from_flat_ones():
    memory = dict.fromkeys(ROLES, 100.0)
    samples = [
        {"minute": n, "latency": {"p50_ms": 10.0, "p99_ms": float(n)}, "memory_mb": memory | {"relay": 100.0 + n}}
        for n in range(1, 61)
    ]
    found = verdict(samples)
    assert found["memory"]["commands"] == {"mb_per_hour": 0, "drift": 1}
    assert found["memory"]["relay"]["mb_per_hour"] == pytest.approx(60)
    assert found["memory"]["relay"]["drift"] > 1.2
    assert found["latency"]["p50_ms"] == {"median": 10, "drift": 1}
    assert found["latency"]["p99_ms"]["drift"] > 2


def test_the_marketplace_has_all_that_the_soak_says():
    records = list(itertools.islice(marketplace(random.Random(7)), 20_000))
    commands = [CommandEnvelope.model_validate_json(value) for _, value, command_id in records if command_id]
    assert 0.003 < (len(records) - len(commands)) / len(records) < 0.007
    assert 0.005 < 1 - len({command.id for command in commands}) / len(commands) < 0.015
    assert 1500 < len({command.subject for command in commands}) < 3000


def test_what_the_marketplace_sends_is_judged_as_the_soak_says():
    orders: dict[str, Order] = {}
    refused, used = Counter[str](), set[str]()
    for _, value, command_id in itertools.islice(marketplace(random.Random(7)), 20_000):
        if not command_id or command_id in used:
            continue
        used.add(command_id)
        envelope = CommandEnvelope.model_validate_json(value)
        order = orders.setdefault(envelope.subject, Order(id=envelope.subject))
        if (rejection := carry_out(order, envelope.command(), command_id, _NOW).rejection) is not None:
            refused[rejection.code] += 1
    assert refused.keys() == {"not_allowed"}
    assert 0.01 < refused.total() / len(used) < 0.04
