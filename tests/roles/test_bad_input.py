"""Every record of the commands topic gets its outcome or dead letter, and the next command is judged."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psutil
import pytest
from aiokafka import AIOKafkaProducer
from psycopg import AsyncConnection
from resolution_contracts import CommandEnvelope

from services.embedded import Servers
from services.judging.partitioner import partition_of
from services.kafka.record_batches import LARGEST_BATCH_BYTES
from services.kafka.relay_position import Position
from services.relay.unpublished import is_full, unpublished_outcomes
from tests.roles.test_topics import STAMPED, set_on
from tests.support.commands import CLIENT, FREELANCER, register
from tests.support.installation import PARTITIONS, Installation, until
from tests.support.judgement_day import assert_as_the_oracle_says

ANY_TIME = {"message.timestamp.before.max.ms": str(2**63 - 1), "message.timestamp.after.max.ms": str(2**63 - 1)}


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
    "a NUL in the source": (b"order-1", envelope(source="a\0b")),
    "a NUL in the id": (b"order-1", envelope(id=f"{uuid4()}\0")),
    "a NUL in an attribute that nobody knows": (b"order-1", envelope(extra={"deep": ["a\0b"]})),
    "a NUL in an attribute's name": (b"order-1", envelope(**{"a\0b": 1})),
    "data in Base64": (b"order-1", envelope(data_base64="e30=")),
    "a key of 300 KB": (b"k" * 300_000, envelope()),
}


def resolution(installation: Installation, *arguments: str) -> bytes:
    """What the command line prints; fails where it exits with another code than 0."""
    return subprocess.run(
        [sys.executable, "-m", "services", *arguments],
        env=os.environ | installation.settings.as_environment(),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout


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
        assert letter.key == (key and key[:65536]), name
        if len(value or b"") <= 256 * 1024:
            assert letter.value == value, name
        else:
            assert letter.value == value[:65536], name
            assert headers["value-bytes"] == str(len(value)).encode()
            assert headers["value-sha256"] == hashlib.sha256(value).hexdigest().encode()
        assert headers["trace"] == b"\xff\x00", "its own headers are kept"
        assert headers["error"], name
        assert headers["source-topic"].decode() == running.topics.commands
        assert headers["source-partition"] == b"3"
    assert len(dead) == len(DEAD)
    large = DEAD["1 MB"][1]
    shown = resolution(running, "dead", "show", f"3/{places['1 MB']}", "--raw")
    assert shown == large, "the whole of it is in the store"
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
        while run := await unpublished_outcomes(connection, position):
            runs.append(run)
            position = Position(outcome_id=run[-1].outcome_id)
    assert [is_full(run, []) for run in runs] == [True, True, False]
    assert all(sum(len(outcome.message or b"") for outcome in run) < 18_000_000 for run in runs)
    await installation.run("relay")
    await installation.until_published()
    dead = await installation.read(installation.topics.dead_letters)
    assert [letter.value for letter in dead] == [value[:65536] for value in garbage]


CODECS = ["gzip", "snappy", "lz4", "zstd"]


async def test_commands_are_read_whatever_codec_their_sender_compresses_with(running: Installation):
    for codec in CODECS:
        async with compressing(running, codec) as producer:
            sent = CommandEnvelope.of(codec, register(), source="/tests")
            await producer.send_and_wait(running.topics.commands, sent.to_json(), sent.key)
    await running.until_published()
    assert {event["subject"] for event in await running.events()} == set(CODECS)
    await assert_as_the_oracle_says(running)


@pytest.mark.parametrize("size", [20_000_000, 120_000_000])
async def test_a_batch_that_decompresses_to_many_megabytes_becomes_a_dead_letter(running: Installation, size: int):
    await running.send("order-1", register())
    async with compressing(running, "gzip") as producer:
        sent = await producer.send_and_wait(running.topics.commands, b" " * size, b"order-1")
    delivered = await running.outcome_of("order-1", envelope())
    assert delivered["data"]["events"], "the next command of the partition goes on"
    await running.until_published()
    [letter] = await running.read(running.topics.dead_letters)
    headers = dict(letter.headers)
    assert headers["source-offset"] == str(sent.offset).encode()
    if size < LARGEST_BATCH_BYTES:
        assert (headers["value-bytes"], letter.value) == (str(size).encode(), b" " * 65536)
    else:
        assert b"cannot be decompressed" in headers["error"]
        assert len(letter.value) < 200_000, "as it was on the topic"
    for role in ("commands", "relay"):
        assert psutil.Process(running.supervisor.pid(role)).memory_info().rss < 400_000_000


@asynccontextmanager
async def compressing(installation: Installation, codec: str) -> AsyncIterator[AIOKafkaProducer]:
    options = installation.settings.cluster.options
    async with AIOKafkaProducer(**options, compression_type=codec, max_request_size=200_000_000) as producer:
        yield producer


async def test_a_record_of_a_time_that_no_event_can_have_is_no_command(running: Installation, servers: Servers):
    """Somebody changed the topic while the service ran, so that senders choose the time."""
    await set_on(servers, running.topics.commands, {"message.timestamp.type": "CreateTime"} | ANY_TIME)
    times = (-1, -62135596800001, 253402300800000, 2**62, 2**63 - 1)
    for time in times:
        await running.publish_raw(b"order-1", envelope(), timestamp_ms=time)
    await until(lambda: dead_letters(running, len(times)))
    letters = await running.read(running.topics.dead_letters)
    assert all(b"message.timestamp.type=LogAppendTime" in dict(letter.headers)["error"] for letter in letters)
    await set_on(servers, running.topics.commands, STAMPED)
    assert (await running.send("order-1", register()))["data"]["events"]


async def dead_letters(installation: Installation, number: int) -> bool:
    return len(await installation.read(installation.topics.dead_letters)) == number


async def test_headers_without_a_value_stop_nothing(running: Installation):
    await running.send("order-1", register())
    partition = (await running.publish_raw(b"order-1", envelope(), headers=[("retry-of", None)])).partition
    letter = await running.publish_raw(b"order-1", b"no command", headers=[("trace", None), ("retry-of", None)])
    for named in (letter.offset, letter.offset + 1, 0, 10**18):
        headers = [("retry-of", str(named).encode()), ("traceparent", None)]
        await running.publish_raw(b"order-1", b"no command", headers=headers)
    assert (await running.outcome_of("order-1", envelope(type="resolution.command.RecordCompletion.v1")))["data"][
        "events"
    ]
    await running.until_published()
    assert len(await running.read(running.topics.dead_letters)) == 5
    resolution(running, "dead", "list")
    resolution(running, "dead", "show", f"{partition}/{letter.offset}")
    resolution(running, "dead", "retry", f"{partition}/{letter.offset}")
    await running.until_published()
    await assert_as_the_oracle_says(running)


async def test_records_that_repeat_dead_letters_of_their_own_batch_have_the_first_ones_time(installation: Installation):
    first = (await installation.publish_raw(b"order-1", b"no command")).offset
    for number in range(300):
        await installation.publish_raw(b"order-1", b"no command", headers=[("retry-of", str(first + number).encode())])
    await installation.run("commands", "relay")
    await installation.until_published()
    dead = await installation.read(installation.topics.dead_letters)
    assert len({dict(letter.headers)["source-timestamp"] for letter in dead}) == 1


async def test_a_sender_with_another_partitioner_is_told_which_setting_is_wrong(running: Installation):
    await running.send("order-1", register())
    own = partition_of(b"order-1", PARTITIONS)
    await running.publish_raw(b"order-1", envelope(), partition=(own + 1) % PARTITIONS)
    await running.until_published()
    [letter] = await running.read(running.topics.dead_letters)
    assert b"partitioner=murmur2_random" in dict(letter.headers)["error"]
    assert len(await running.events("order-1")) == 1
    await assert_as_the_oracle_says(running)


async def test_a_record_that_the_database_refuses_is_buried_and_the_others_go_on(installation: Installation):
    installation.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.source = '/refused' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'data_exception'; END IF; RETURN NEW; "
        "END $$"
    )
    installation.query("CREATE TRIGGER refuse BEFORE INSERT ON outcomes FOR EACH ROW EXECUTE FUNCTION refuse()")
    for number in range(40):
        refused = [11, 12, 30]
        source = "/refused" if number in refused else "/tests"
        sent = CommandEnvelope.of(f"order-{number}", register(), source=source)
        await installation.publish_raw(sent.key, sent.to_json())
    await installation.run("commands", "relay")
    await installation.until_published()
    dead = await installation.read(installation.topics.dead_letters)
    assert {letter.key for letter in dead} == {b"order-11", b"order-12", b"order-30"}
    assert all(b"the database cannot store" in dict(letter.headers)["error"] for letter in dead)
    assert len(await installation.events()) == 37
    resolution(installation, "ledger")


INVALID = {
    "an amount of 2^63 - 1 is over the limit": (refund(2**63 - 1), "refund_over_limit"),
    "an amount of 2^63": (refund(2**63), "invalid"),
    "a key twice": (refund(100).replace(b'"amount": 100,', b'"amount": 10000, "amount": 100,'), "invalid"),
    "half of a character": (refund(100, explanation="\ud800"), "invalid"),
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


async def test_the_largest_amount_passes_through(running: Installation):
    await running.send("order-1", register(price=2**63 - 1))
    outcome = await running.outcome_of("order-1", refund(60 * (2**63 - 1) // 100))
    assert outcome["data"]["events"]
    await assert_as_the_oracle_says(running)
