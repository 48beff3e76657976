"""Histories of earlier versions go on and still verify: those read some commands otherwise, and from any partition."""

import json
from typing import Any

from resolution_contracts import Accept, CommandEnvelope

from services.judging.partitioner import partition_of
from tests.roles.test_bad_input import resolution
from tests.support.commands import CLIENT, FREELANCER, ask_cancellation, ask_update, register
from tests.support.installation import PARTITIONS, Installation

SMALL = "abcdefab-cdef-abcd-efab-cdefabcdefab"
CAPITAL = SMALL.upper()
OTHER = "12345678-abcd-abcd-abcd-abcdefabcdef"
FACTS = json.dumps(
    {
        "client_id": CLIENT,
        "freelancer_id": FREELANCER,
        "price": {"amount": 100, "currency": "USD"},
        "expected_delivery_at": "2027-01-31T12:00:00Z",
    }
)


async def told(installation: Installation, order_id: str, data: str) -> None:
    """Registers an order with this data."""
    envelope = CommandEnvelope.of(order_id, register(), source="/tests").model_copy(update={"data": {}})
    value = envelope.to_json().replace(b'"data":{}', b'"data":' + data.encode())
    await installation.publish_raw(envelope.key, value)


def codes(outcomes: list[dict[str, Any]], order_id: str) -> list[str]:
    """What became of an order's commands: the code of each rejection, or "duplicate", or "accepted"."""
    said = [outcome["data"] for outcome in outcomes if outcome["subject"] == order_id]
    return ["duplicate" if data.get("duplicate") else data.get("code", "accepted") for data in said]


async def test_what_an_earlier_version_judged_goes_on_and_still_verifies(installation: Installation):
    strange = (partition_of(b"order-1", PARTITIONS) + 1) % PARTITIONS
    for command in (register(), ask_update()):
        envelope = CommandEnvelope.of("order-1", command, source="/tests")
        await installation.publish_raw(envelope.key, envelope.to_json(), partition=strange)
    await installation.publish("order-2", register())
    await told(installation, "twice", FACTS.replace("100", '1, "amount": 100'))
    await told(installation, "large", FACTS.replace("100", str(10**20)))
    await told(installation, "float", FACTS.replace("100", "1e2"))
    await told(installation, "seven", FACTS.replace("00Z", "00.1234567Z"))
    await told(installation, "blank", FACTS.replace(CLIENT, "\u200b"))
    await told(installation, "wrong", "{}")
    await installation.publish("case", register())
    await installation.publish("case", ask_cancellation(), id=CAPITAL)
    await installation.publish("case", Accept(actor=FREELANCER, dispute_id=SMALL), id=OTHER)
    await installation.publish("case", ask_cancellation(), id=SMALL)
    await installation.publish("case", ask_cancellation(), id=SMALL)
    async with installation.earlier_here("commands", "relay"):
        await installation.until_published()
    assert len(await installation.events("order-1")) == 2
    outcomes = await installation.outcomes()
    for order_id in ("twice", "large", "blank"):
        assert codes(outcomes, order_id) == ["accepted"]
    for order_id in ("float", "seven", "wrong"):
        assert codes(outcomes, order_id) == ["invalid"]
    assert codes(outcomes, "case") == ["accepted", "accepted", "dispute_unknown", "dispute_open", "duplicate"]

    await installation.run("commands", "relay", "timer", "projections")
    await installation.send("order-2", ask_update(), id=CAPITAL)
    again = await installation.send("order-2", ask_update(), id=SMALL)
    assert (again["causationid"], again["data"]["duplicate"]) == (CAPITAL, True)
    await installation.stop("commands")  # and what it remembers
    await installation.run("commands")
    again = await installation.send("order-2", ask_update(), id=SMALL)
    assert (again["causationid"], again["data"]["duplicate"]) == (CAPITAL, True)
    assert (await installation.send("case", ask_cancellation(), id=SMALL))["data"]["code"] == "dispute_open"
    assert (await installation.send("case", Accept(actor=FREELANCER, dispute_id=SMALL)))["data"]["events"]
    assert [event["data"].get("dispute_id") for event in await installation.events("case")][1:] == [CAPITAL] * 3
    for order_id, data in (
        ("now twice", FACTS.replace("100", '1, "amount": 100')),
        ("now half", FACTS.replace(CLIENT, "\\ud800")),
        ("now large", FACTS.replace("100", str(10**20))),
        ("now float", FACTS.replace("100", "1e2")),
    ):
        await told(installation, order_id.replace(" ", "-"), data)
    await installation.publish_raw(envelope.key, envelope.to_json(), partition=strange)  # from now on a dead letter
    await installation.until_published()
    await installation.until_projected()
    outcomes = await installation.outcomes()
    assert [codes(outcomes, f"now-{what}") for what in ("twice", "half", "large")] == [["invalid"]] * 3
    assert codes(outcomes, "now-float") == ["accepted"]
    resolution(installation, "ledger")
    resolution(installation, "verify")
    await installation.stop()
    resolution(installation, "verify", "--from-commands")
