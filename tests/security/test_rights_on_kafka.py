"""deploy/kafka/acls on a real broker with Kafka's StandardAuthorizer, over SASL_SSL: who may do what, and nothing else."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from services.kafka.cluster import Cluster
from services.kafka.open_transactions import open_transactions
from services.kafka.read_topics import last_value
from services.kafka.security import KafkaSecurity
from services.kafka.topics import DEFAULT_PARTITIONS, TopicError, Topics, ensure_topics

from .conftest import Guarded, Told

pytestmark = pytest.mark.timeout(400)  # the first of them starts the servers and the service

TOPICS = Topics("resolution.")
EVERY = set(TOPICS.names())
READS = {
    "resolution-owner": {TOPICS.outcomes, TOPICS.dead_letters, TOPICS.relay},
    "resolution": EVERY,
    "resolution-http": {TOPICS.outcomes, TOPICS.dead_letters, TOPICS.relay},
    "sender": {TOPICS.outcomes},
    "analyst": {TOPICS.events},
    "auditor": EVERY,
}
WRITES = {
    "resolution-owner": set[str](),
    "resolution": EVERY,
    "resolution-http": {TOPICS.commands},
    "sender": {TOPICS.commands},
    "analyst": set[str](),
    "auditor": set[str](),
}
"""By principal, the topics; said here once more, so that a line too many in the table shows."""


async def test_the_service_tells_a_whole_story_with_no_more_rights_than_these(told: Told, guarded: Guarded):
    assert told.page["status"] == "canceled"
    events = [json.loads(value)["type"] for value in await _read(guarded.cluster("auditor"), TOPICS.events)]
    assert "resolution.event.AutoAccepted.v1" in events
    assert await _read(guarded.cluster("auditor"), TOPICS.checkpoints)


@pytest.mark.parametrize("principal", READS)
async def test_each_reads_its_topics_and_no_other(told: Told, guarded: Guarded, principal: str):
    found = set()
    for topic in sorted(EVERY):
        try:
            await _read(guarded.cluster(principal), topic)
            found.add(topic)
        except TopicAuthorizationFailedError:
            pass
    assert found == READS[principal]


@pytest.mark.parametrize("principal", WRITES)
async def test_each_writes_to_its_topics_and_to_no_other(told: Told, guarded: Guarded, principal: str):
    found = set()
    producer = AIOKafkaProducer(**guarded.cluster(principal).options)
    await producer.start()
    try:
        for topic in sorted(EVERY):
            try:
                await producer.send_and_wait(topic, await _harmless(guarded, topic), b"nobody")
                found.add(topic)
            except TopicAuthorizationFailedError:
                pass
    finally:
        await producer.stop()
    assert found == WRITES[principal]


@pytest.mark.parametrize("principal", ["sender", "resolution-http", "analyst", "auditor"])
async def test_nobody_else_takes_the_relays_transactional_id(guarded: Guarded, principal: str):
    producer = AIOKafkaProducer(**guarded.cluster(principal).options, transactional_id=TOPICS.relay)
    with pytest.raises(TransactionalIdAuthorizationFailed):
        await producer.start()
    await producer.stop()


async def test_an_analyst_follows_the_events_in_groups_of_its_own_only(told: Told, guarded: Guarded):
    assert await _first_in_group(guarded.cluster("analyst"), "analyst-1")
    with pytest.raises(GroupAuthorizationFailedError):
        await _first_in_group(guarded.cluster("analyst"), "resolution.commands")


async def test_only_the_owner_creates_topics(guarded: Guarded):
    for principal in ("resolution", "resolution-http", "sender"):
        with pytest.raises(TopicError, match="grant this user the right"):
            await ensure_topics(guarded.cluster(principal), Topics("resolution.elsewhere."))


async def test_a_role_that_may_not_see_how_a_topic_is_set_says_what_to_grant(told: Told, guarded: Guarded):
    with pytest.raises(TopicError, match="grant"):
        await ensure_topics(guarded.cluster("sender"), TOPICS)


async def test_strangers_are_refused(guarded: Guarded, caplog: pytest.LogCaptureFixture):
    ours = guarded.kafka.security("resolution")
    wrong = {
        "SaslAuthenticationFailed|Authentication failed": replace(ours, password="guessed"),
        "CERTIFICATE_VERIFY_FAILED": replace(ours, ca_file=guarded.kafka.stranger.file),
        "Connection": KafkaSecurity(),
    }
    for security in wrong.values():
        consumer = AIOKafkaConsumer(**Cluster(guarded.bootstrap, security, request_timeout_ms=5_000).options)
        with pytest.raises(KafkaConnectionError):
            await asyncio.wait_for(consumer.start(), 30)
        await consumer.stop()
    assert "guessed" not in caplog.text


async def test_the_command_line_says_at_once_why_a_broker_refuses_it(guarded: Guarded, tmp_path: Path):
    commands = tmp_path / "commands.jsonl"
    commands.write_text('{"subject": "order-1", "type": "RecordDelivery"}')
    ours = guarded.as_user("owner", "resolution-owner")
    for change, said in (
        ({"password": "guessed"}, "Authentication failed"),
        ({"ca_file": guarded.kafka.stranger.file}, "certificate verify failed"),
    ):
        wrong = replace(ours, kafka_security=replace(ours.kafka_security, **change))
        for command, expected in ((["migrate"], 2), (["send", str(commands)], 1)):
            async with asyncio.timeout(90):
                code, out, err = await guarded.run(wrong, *command)
            assert (code, out) == (expected, ""), err
            last = err.splitlines()[-1]
            assert last.startswith(f"resolution: Kafka refuses the connection: {said}"), err
            assert "Waiting does not help" in last
            assert "guessed" not in err


async def _harmless(guarded: Guarded, topic: str) -> bytes:
    """Once more what is last, where a role goes on from that."""
    own = topic in dict(TOPICS.own_settings())
    return (own and await last_value(guarded.cluster("auditor"), topic)) or b"not a message of anybody's"


async def _read(cluster: Cluster, topic: str) -> list[bytes]:
    """All that is committed. Raises TopicAuthorizationFailedError."""
    consumer = AIOKafkaConsumer(**cluster.options, isolation_level="read_committed", enable_auto_commit=False)
    await consumer.start()
    try:
        if topic not in await consumer.topics():
            raise TopicAuthorizationFailedError(topic)
        count = 1 if topic in dict(TOPICS.own_settings()) else DEFAULT_PARTITIONS
        partitions = [TopicPartition(topic, n) for n in range(count)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[bytes] = []
        while True:
            batches = await consumer.getmany(timeout_ms=100)
            found += [record.value for batch in batches.values() for record in batch]
            if all([await consumer.position(tp) >= ends[tp] for tp in partitions]):
                return found
    finally:
        await consumer.stop()


async def _first_in_group(cluster: Cluster, group: str) -> bytes | None:
    consumer = AIOKafkaConsumer(
        TOPICS.events, **cluster.options, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    try:
        await consumer.start()
        return (await asyncio.wait_for(consumer.getone(), 30)).value
    finally:
        await consumer.stop()


async def test_whoever_may_not_read_a_topic_is_told_that_open_transactions_cannot_be_seen(
    told: Told, guarded: Guarded, caplog: pytest.LogCaptureFixture
):
    allowed, refused = TopicPartition(TOPICS.outcomes, 0), TopicPartition(TOPICS.events, 0)
    client = AIOKafkaClient(**guarded.cluster("resolution-http").options)
    await client.bootstrap()
    try:
        assert await open_transactions(client, [allowed, refused]) == {allowed: {}}
    finally:
        await client.close()
    assert f"cannot be seen on {TOPICS.events}: allow this client to read there" in caplog.text
