"""Whatever lies on the commands topic gets its outcome or its dead letter, and the next command goes on."""

import json
from typing import Any
from uuid import uuid4

import pytest
from psycopg import AsyncConnection

from services.kafka.relay_position import Position
from services.relay.stored import is_full, next_outcomes
from tests.engine.commands import CLIENT, FREELANCER, register
from tests.installation import Installation, until
from tests.judgement_day import assert_as_the_oracle_says


def envelope(**changes: Any) -> bytes:
    attributes = {
        "specversion": "1.0",
        "id": str(uuid4()),
        "type": "resolution.command.RecordDelivery.v1",
        "source": "/tests",
        "subject": "order-1",
    } | changes
    return json.dumps({name: value for name, value in attributes.items() if value is not None}).encode()


def refund(amount: Any, **changes: Any) -> bytes:
    data = {
        "actor": FREELANCER,
        "amount": {"amount": amount, "currency": "USD"},
        "explanation": "One draft is late.",
        "reason": "other",
    } | changes
    return envelope(type="resolution.command.OfferPartialRefund.v1", data=data)


DEAD = {
    "no JSON": (b"order-1", b"\x00\x01garbage"),
    "an empty value": (b"order-1", b""),
    "a tombstone": (b"order-1", None),
    "not UTF-8": (b"order-1", envelope(source="X").replace(b"X", b"\xff")),
    "an array": (b"order-1", b"[]"),
    "a number": (b"order-1", b"17"),
    "no id": (b"order-1", envelope(id=None)),
    "an id that is no UUID": (b"order-1", envelope(id="17")),
    "no type": (b"order-1", envelope(type=None)),
    "an unknown type": (b"order-1", envelope(type="resolution.command.Explode.v1")),
    "a later version": (b"order-1", envelope(type="resolution.command.Accept.v9")),
    "no source": (b"order-1", envelope(source=None)),
    "no subject": (b"order-1", envelope(subject=None)),
    "another specversion": (b"order-1", envelope(specversion="0.3")),
    "a wrong key": (b"order-2", envelope()),
    "no key": (None, envelope()),
    "a subject with a blank": (b"order 1", envelope(subject="order 1")),
    "a subject of 65 characters": (b"o" * 65, envelope(subject="o" * 65)),
    "1 MB": (b"order-1", envelope(padding="x" * 1_048_576)),
    "one byte above 256 KiB": (b"order-1", envelope().ljust(256 * 1024 + 1)),
    "JSON nested 100,000 deep": (b"order-1", b'{"data":' + b"[" * 100_000),
    "NaN": (b"order-1", envelope(data={"x": 1}).replace(b"1}", b"NaN}")),
}


@pytest.fixture
async def running(installation: Installation) -> Installation:
    await installation.run("commands", "relay")
    return installation


async def test_what_is_no_command_becomes_a_dead_letter_and_the_next_one_goes_on(running: Installation):
    await running.send("order-1", register())
    places = {}
    for name, (key, value) in DEAD.items():
        sent = await running.publish_raw(key, value, partition=3, headers=[("trace", b"\xff\x00")])
        places[name] = sent.offset
    partition_of_order = (await running.publish_raw(b"order-1", envelope())).partition
    await running.publish_raw(b"order-1", envelope(), partition=partition_of_order)
    await running.until_published()

    dead = {dict(r.headers)["source-offset"]: r for r in await running.read(running.topics.dead_letters)}
    for name, (key, value) in DEAD.items():
        letter = dead[str(places[name]).encode()]
        headers = dict(letter.headers)
        assert (letter.key, letter.value) == (key, value), name
        assert headers["trace"] == b"\xff\x00", "its own headers are kept"
        assert headers["error"], name
        assert headers["source-topic"].decode() == running.topics.commands
        assert headers["source-partition"] == b"3"
    assert len(dead) == len(DEAD)
    delivered = [e for e in await running.events("order-1") if e["type"].endswith("OrderDelivered.v1")]
    assert len(delivered) == 1
    await assert_as_the_oracle_says(running)


async def test_large_garbage_is_published_in_runs_that_memory_holds(installation: Installation):
    garbage = [b"%d" % number + b"x" * 1_000_000 for number in range(40)]
    await installation.run("commands")
    for value in garbage:
        await installation.publish_raw(b"order-1", value, partition=3)
    await until(lambda: installation.query("SELECT count(*) FROM outcomes") == [(len(garbage),)])
    async with await AsyncConnection.connect(installation.settings.database) as connection:
        position, runs = Position(), []
        while run := await next_outcomes(connection, position):
            runs.append(run)
            position = Position(outcome_id=run[-1].outcome_id)
    assert [is_full(run, []) for run in runs] == [True, True, False]
    assert all(sum(len(outcome.message or b"") for outcome in run) < 18_000_000 for run in runs)
    await installation.run("relay")
    await installation.until_published()
    dead = await installation.read(installation.topics.dead_letters)
    assert [letter.value for letter in dead] == garbage


INVALID = {
    "an amount of 10^30 is over the limit": (refund(10**30), "refund_over_limit"),
    "0 days": (envelope(
        type="resolution.command.OpenDispute.v1",
        data={"actor": FREELANCER, "request": {"kind": "delivery_extension", "days": 0, "note": "x"}},
    ), "invalid"),
    "61 days": (envelope(
        type="resolution.command.OpenDispute.v1",
        data={"actor": FREELANCER, "request": {"kind": "delivery_extension", "days": 61, "note": "x"}},
    ), "invalid"),
    "an empty note": (envelope(
        type="resolution.command.OpenDispute.v1",
        data={"actor": FREELANCER, "request": {"kind": "delivery_extension", "days": 3, "note": "  "}},
    ), "invalid"),
    "NUL in a text": (refund(100, explanation="a\0b"), "invalid"),
    "an amount of 5,000 digits": (refund(1).replace(b'"amount": 1,', b'"amount": ' + b"9" * 5000 + b","), "invalid"),
    "an amount with a fraction": (refund(1.5), "invalid"),
    "an amount in words": (refund("1"), "invalid"),
    "no amount": (refund(0), "invalid"),
    "an unknown field": (refund(100, tip=True), "invalid"),
    "20,000 unknown fields": (refund(100, **{f"field-{n}": 1 for n in range(15_000)}), "invalid"),
    "data that is no object": (envelope(data=[1]), "invalid"),
    "an unknown kind": (envelope(
        type="resolution.command.OpenDispute.v1", data={"actor": CLIENT, "request": {"kind": "duel"}},
    ), "invalid"),
    "a date that is a number": (envelope(
        type="resolution.command.RegisterOrder.v1", subject="order-1",
        data={"client_id": "a", "freelancer_id": "b", "price": {"amount": 1, "currency": "USD"},
              "expected_delivery_at": 1790000000},
    ), "invalid"),
}  # fmt: skip


async def test_data_that_the_schema_refuses_is_invalid_and_says_where(running: Installation):
    await running.send("order-1", register())
    for name, (value, code) in INVALID.items():
        outcome = await running.outcome_of("order-1", value)
        assert outcome["data"]["code"] == code, name
        if code == "invalid":
            errors = outcome["data"]["details"]["errors"]
            assert 1 <= len(errors) <= 20, name
            assert all(set(error) == {"path", "reason"} for error in errors)
    delivered = await running.outcome_of("order-1", envelope())
    assert delivered["data"]["events"], "the next command of the partition goes on"
    await assert_as_the_oracle_says(running)


async def test_huge_but_legal_numbers_pass_through(running: Installation):
    await running.send("order-1", register(price=10**30))
    outcome = await running.outcome_of("order-1", refund(6 * 10**29))
    assert outcome["data"]["events"]
    await assert_as_the_oracle_says(running)
