"""`resolution ledger`: one thing follows from each record of the commands topic, and what is wrong is named."""

import asyncio
import json
import random
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from resolution_contracts import CommandEnvelope
from typer.testing import CliRunner

from services import cli
from services.judging.partitioner import partition_of
from services.kafka.relay_position import Position
from tests.faults.load import FAST, under_load
from tests.roles.test_parking import bug, judging_here, publish_a_few
from tests.support.commands import ask_update, offer_refund, register
from tests.support.installation import PARTITIONS, Installation, until

ORDER = "order-7"
PLACE = partition_of(ORDER.encode(), PARTITIONS)
Json = dict[str, Any]
planted = bug


async def ledger(installation: Installation) -> Json:
    result = await asyncio.to_thread(_invoke, installation, "--json")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    found: Json = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == bool(found["differences"])
    for account in found["partitions"]:
        became = sum(
            account[kind] for kind in ("accepted", "rejected", "repeated", "reused", "dead", "parked", "waiting")
        )
        assert found["differences"] or account["records"] + account["expired"] == became
    return found


def _invoke(installation: Installation, *arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["ledger", *arguments], env=installation.settings.as_environment())


def total(found: Json) -> Json:
    names = found["partitions"][0].keys() - {"partition"}
    return {name: sum(account[name] for account in found["partitions"]) for name in names}


async def a_few(installation: Installation) -> None:
    """Offsets 0 to 5 of one partition: accepted, accepted, repeated, reused, rejected, dead."""
    await installation.run("commands")
    await installation.publish(ORDER, register())
    asked = await installation.publish(ORDER, ask_update())
    await installation.publish(ORDER, ask_update(), id=asked)
    await installation.publish(ORDER, offer_refund(), id=asked)
    await installation.publish(ORDER, ask_update())
    await installation.publish_raw(ORDER.encode(), b"garbage")
    await until(lambda: installation.query("SELECT count(*) FROM outcomes") == [(6,)])


async def test_every_record_leads_to_one_thing_also_beside_a_live_service(installation: Installation):
    await installation.run(scale=FAST)
    async with under_load(installation, random.Random(1), per_second=100):
        await asyncio.sleep(3)
        for _ in range(3):
            assert (await ledger(installation))["differences"] == []
    await installation.stop("timer")  # it would ask on between the two countings
    await installation.until_published()
    done = total(await ledger(installation))
    assert done["records"] == len(await installation.read(installation.topics.commands))
    assert done["waiting"] == done["parked"] == done["expired"] == 0
    counts = dict(installation.query("SELECT kind, count(*) FROM outcomes GROUP BY kind"))
    assert {kind: done[kind] for kind in counts} == counts
    assert (
        "Every record led to one outcome, and Kafka has it once."
        in (await asyncio.to_thread(_invoke, installation)).output
    )


async def test_what_is_not_judged_yet_is_counted(installation: Installation):
    await a_few(installation)
    await installation.stop("commands")
    await installation.publish(ORDER, ask_update())
    found = await ledger(installation)
    assert found["partitions"][PLACE] == {
        "partition": PLACE, "records": 7, "expired": 0, "accepted": 2, "rejected": 1, "repeated": 1, "reused": 1,
        "dead": 1, "parked": 0, "waiting": 1,
    }  # fmt: skip


ANOTHER = (
    "INSERT INTO outcomes SELECT 7, partition, {offset}, kind, order_id, 'another', digest, source, last_event_id, key, "
    "message, headers FROM outcomes WHERE record_offset = 4"
)
WRONG = {
    "DELETE FROM outcomes WHERE record_offset = 2": f"{PLACE}/2: nothing became of this record",
    "DELETE FROM outcomes WHERE record_offset = 5": f"{PLACE}/5: nothing became of this record",
    "UPDATE outcomes SET record_offset = 3 WHERE record_offset = 2": f"{PLACE}/2: nothing became of this record",
    ANOTHER.format(offset=3): f"{PLACE}/3: it is there twice",
    ANOTHER.format(offset=6): f"{PLACE}/6: it is rejected, although the commands role has read only up to 6",
    "UPDATE outcomes SET partition = 8 WHERE record_offset = 2": f"{PLACE}/2: nothing became of this record",
    "UPDATE positions SET next_offset = 4 WHERE consumer = 'commands'": f"{PLACE}/4: it is rejected, although",
    "INSERT INTO parked_commands SELECT partition, record_offset, order_id, command_id, 0, null, null, '[]', '' "
    "FROM outcomes WHERE record_offset = 4": f"{PLACE}/4: it is there twice",
}


async def test_whatever_is_wrong_is_named(installation: Installation):
    await a_few(installation)
    await installation.stop("commands")
    for table in ("outcomes", "positions"):
        installation.query(f"CREATE TABLE {table}_before AS SELECT * FROM {table}")
    for sql, said in WRONG.items():
        installation.query(sql)
        found = await ledger(installation)
        assert found["differences"], sql
        assert found["differences"][0].startswith(said), (sql, found["differences"])
        installation.query("DELETE FROM parked_commands")
        for table in ("outcomes", "positions"):
            installation.query(f"DELETE FROM {table}")
            installation.query(f"INSERT INTO {table} SELECT * FROM {table}_before")
    assert (await ledger(installation))["differences"] == []


async def test_parked_commands_are_entered_and_one_that_is_removed_is_missed(
    installation: Installation, planted: pytest.MonkeyPatch
):
    async with judging_here(installation):
        await publish_a_few(installation)
        await until(lambda: installation.query("SELECT count(*) FROM parked_commands") == [(3,)])
        await until(lambda: installation.query("SELECT count(*) FROM outcomes") == [(5,)])
    found = await ledger(installation)
    assert found["differences"] == []
    assert total(found)["parked"] == 3
    [(partition, offset)] = installation.query(
        "DELETE FROM parked_commands WHERE record_offset = (SELECT max(record_offset) FROM parked_commands) "
        "RETURNING partition, record_offset"
    )
    [said] = (await ledger(installation))["differences"]
    assert said.startswith(f"{partition}/{offset}: nothing became of this record")


async def test_offsets_without_a_record_are_no_holes(installation: Installation):
    """Senders with transactions leave markers, and records that were never committed."""
    producer = AIOKafkaProducer(
        bootstrap_servers=installation.settings.kafka, transactional_id=installation.topics.prefix
    )
    await installation.run("commands")
    await producer.start()
    try:
        for committed in (True, False, True):
            await producer.begin_transaction()
            envelope = CommandEnvelope.of(ORDER, register(), source="/tests")
            await producer.send_and_wait(installation.topics.commands, envelope.to_json(), envelope.key)
            await (producer.commit_transaction() if committed else producer.abort_transaction())
    finally:
        await producer.stop()
    await until(lambda: installation.query("SELECT count(*) FROM outcomes") == [(2,)])
    found = await ledger(installation)
    assert found["differences"] == []
    assert found["partitions"][PLACE]["records"] == 2
    installation.query("UPDATE outcomes SET record_offset = 2 WHERE record_offset = 4")  # the one that was aborted
    said = (await ledger(installation))["differences"]
    assert [sentence.partition(": ")[0] for sentence in said] == [f"{PLACE}/2", f"{PLACE}/4"]
    assert said[0].endswith("there is no such record on the topic")


async def test_a_topic_whose_beginning_has_expired_is_accepted(installation: Installation):
    await a_few(installation)
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.settings.kafka)
    await admin.start()
    try:
        where = TopicPartition(installation.topics.commands, PLACE)
        await admin.delete_records({where: RecordsToDelete(before_offset=4)})
    finally:
        await admin.close()
    found = await ledger(installation)
    assert found["differences"] == []
    account = found["partitions"][PLACE]
    assert (account["records"], account["expired"], account["accepted"]) == (2, 4, 2)
    installation.query(ANOTHER.format(offset=1))
    [said] = (await ledger(installation))["differences"]
    assert said.startswith(f"{PLACE}/1: it is there twice")


# --- what is on Kafka ---


async def test_what_the_store_holds_otherwise_than_kafka_is_named(installation: Installation):
    """As where a database has fallen back, and its numbers mean other outcomes than those that were published."""
    await a_few(installation)
    await installation.run("commands", "relay")
    await installation.until_published()
    assert (await ledger(installation))["differences"] == []
    await installation.stop("relay")
    installation.query(
        "UPDATE outcomes SET message = convert_to(replace(convert_from(message, 'UTF8'), '\"time\":\"2', '\"time\":\"1'), "
        "'UTF8') WHERE record_offset = 1"
    )
    installation.query("UPDATE outcomes SET key = 'another'::bytea WHERE record_offset = 5")
    topics = installation.topics
    changed, missing, surplus = (await ledger(installation))["differences"]
    assert changed.startswith(f"{topics.outcomes}/{PLACE} offset 1 is not what is stored: outcome {ORDER}:")
    assert missing == f"{topics.dead_letters}: dead letter 5 is missing"
    assert surplus == f"{topics.dead_letters}/{PLACE} offset 0 follows from nothing that is stored"


async def test_what_is_on_kafka_twice_is_named(installation: Installation):
    await a_few(installation)
    await installation.run("commands", "relay")
    await installation.until_published()
    [*_, last] = await installation.read(installation.topics.outcomes)
    await installation.publish_raw(last.key, last.value, topic=last.topic, partition=last.partition)
    [said] = (await ledger(installation))["differences"]
    assert said == f"{last.topic}/{PLACE} offset {last.offset + 2} follows from nothing that is stored"


async def test_what_was_published_and_is_not_on_kafka_is_named(installation: Installation):
    """What the relay has still to publish may be missing."""
    await a_few(installation)
    assert (await ledger(installation))["differences"] == []
    position = msgspec.json.encode(Position(outcome_id=4))
    await installation.publish_raw(b"position", position, topic=installation.topics.relay, partition=0)
    said = (await ledger(installation))["differences"]
    assert len(said) == 4
    assert all(sentence.endswith("is missing") for sentence in said)
