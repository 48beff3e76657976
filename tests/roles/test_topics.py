"""The service creates its topics and refuses those it cannot work with."""

import asyncio
import logging
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError

from services.embedded import Servers
from services.kafka.cluster import Cluster
from services.kafka.faststream_adapter import broker_of
from services.kafka.topic_settings import copies_to_ask_for, missing_copies
from services.kafka.topics import TopicError, Topics, ensure_topics
from services.settings import Settings, SettingsError


@pytest.fixture
def topics() -> Topics:
    return Topics(f"test-{uuid4().hex[:8]}.")


async def create(servers: Servers, *new: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers.kafka)
    await admin.start()
    try:
        await admin.create_topics(list(new))
    finally:
        await admin.close()


async def test_missing_topics_are_created_once_also_by_several_at_a_time(servers: Servers, topics: Topics):
    assert servers.kafka
    counts = await asyncio.gather(*(ensure_topics(Cluster(servers.kafka or ""), topics) for _ in range(3)))
    assert counts == [8, 8, 8]
    assert await ensure_topics(Cluster(servers.kafka or ""), topics) == 8


async def test_the_others_follow_the_partition_count_of_a_commands_topic_that_exists(servers: Servers, topics: Topics):
    assert servers.kafka
    stamped = {"message.timestamp.type": "LogAppendTime"}
    await create(servers, NewTopic(topics.commands, 3, 1, topic_configs=stamped))
    assert await ensure_topics(Cluster(servers.kafka or ""), topics) == 3
    assert await ensure_topics(Cluster(servers.kafka or ""), topics) == 3


async def test_D1_a_commands_topic_without_LogAppendTime_is_refused(servers: Servers, topics: Topics):
    assert servers.kafka
    await create(servers, NewTopic(topics.commands, 8, 1))
    with pytest.raises(TopicError, match="LogAppendTime"):
        await ensure_topics(Cluster(servers.kafka or ""), topics)


async def test_partition_counts_that_differ_are_refused(servers: Servers, topics: Topics):
    assert servers.kafka
    stamped = {"message.timestamp.type": "LogAppendTime"}
    await create(servers, NewTopic(topics.commands, 8, 1, topic_configs=stamped), NewTopic(topics.outcomes, 4, 1))
    with pytest.raises(TopicError, match="same number of partitions"):
        await ensure_topics(Cluster(servers.kafka or ""), topics)


STAMPED = {"message.timestamp.type": "LogAppendTime"}


@pytest.mark.parametrize("name", ["commands", "events", "outcomes", "dead_letters", "notifications"])
async def test_a_topic_that_does_not_take_the_batches_of_the_service_is_refused(
    servers: Servers, topics: Topics, name: str
):
    topic = getattr(topics, name)
    await ensure_topics(Cluster(servers.kafka or ""), topics)
    await set_on(servers, topic, STAMPED | {"max.message.bytes": "1048575"})
    with pytest.raises(
        TopicError, match=rf"{topic} has max.message.bytes=1048575, .*kafka-configs.sh --alter .*1048576"
    ):
        await ensure_topics(Cluster(servers.kafka or ""), topics)
    await set_on(servers, topic, STAMPED | {"max.message.bytes": "1048576"})
    await ensure_topics(Cluster(servers.kafka or ""), topics)


@pytest.mark.parametrize("name", ["relay", "checkpoints"])
async def test_so_are_topics_of_the_roles_own(servers: Servers, topics: Topics, name: str):
    await ensure_topics(Cluster(servers.kafka or ""), topics)
    await set_on(servers, getattr(topics, name), {"max.message.bytes": "1000"})
    with pytest.raises(TopicError, match=rf"{name} has max.message.bytes=1000"):
        await ensure_topics(Cluster(servers.kafka or ""), topics)


@pytest.mark.parametrize("name", ["commands", "events", "outcomes", "dead_letters", "notifications", "checkpoints"])
async def test_a_topic_that_keeps_one_record_of_each_key_is_refused(servers: Servers, topics: Topics, name: str):
    await ensure_topics(Cluster(servers.kafka or ""), topics)
    await set_on(servers, getattr(topics, name), STAMPED | {"cleanup.policy": "compact,delete"})
    with pytest.raises(TopicError, match=r"cleanup.policy=compact,delete, .*Set it to delete"):
        await ensure_topics(Cluster(servers.kafka or ""), topics)


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("commands", {"retention.ms": "3600000"}, "lost. Keep it for 7 days"),
        ("outcomes", {"retention.bytes": "1000000"}, "young ones are deleted, too"),
        ("relay", {"cleanup.policy": "delete"}, "Set it to compact"),
        ("events", {"unclean.leader.election.enable": "true"}, "may lose what it has acknowledged"),
    ],
)
async def test_what_may_lose_records_is_named_in_the_log(
    servers: Servers, topics: Topics, name: str, setting: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
):
    await ensure_topics(Cluster(servers.kafka or ""), topics)
    assert caplog.messages == []
    await set_on(servers, getattr(topics, name), STAMPED | setting)
    with caplog.at_level(logging.WARNING, "services"):
        await ensure_topics(Cluster(servers.kafka or ""), topics)
    [message] = caplog.messages
    assert getattr(topics, name) in message
    assert said in message
    assert "kafka-configs.sh" in message


async def set_on(servers: Servers, topic: str, settings: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers.kafka)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])
    finally:
        await admin.close()


@pytest.mark.parametrize(
    ("brokers", "defaults", "asked_for"),
    [
        (1, {"default.replication.factor": "1"}, (-1, {})),
        (2, {"default.replication.factor": "2"}, (-1, {})),
        (3, {"default.replication.factor": "1", "min.insync.replicas": "1"}, (3, {"min.insync.replicas": "2"})),
        (3, {}, (3, {"min.insync.replicas": "2"})),
        (5, {"default.replication.factor": "5", "min.insync.replicas": "3"}, (-1, {})),
        (5, {"default.replication.factor": "3", "min.insync.replicas": "1"}, (3, {"min.insync.replicas": "2"})),
    ],
)
def test_three_brokers_keep_three_copies_unless_the_cluster_keeps_more(
    brokers: int, defaults: dict[str, str], asked_for: tuple[int, dict[str, str]]
):
    assert copies_to_ask_for(brokers, defaults) == asked_for


def test_topics_with_fewer_copies_are_named_and_what_to_do():
    settings = {"events": {"min.insync.replicas": "1"}, "outcomes": {"min.insync.replicas": "2"}}
    few, alone = missing_copies(3, {"events": 1, "outcomes": 3}, settings)
    assert "copies of events (1)" in few
    assert "kafka-reassign-partitions.sh" in few
    assert "record of events when one broker has it" in alone
    assert "min.insync.replicas=2" in alone
    assert list(missing_copies(1, {"events": 1}, settings)) == []
    assert list(missing_copies(3, {"events": 3}, {"events": {}})) == []


async def test_a_broker_that_takes_connections_and_does_not_answer_is_given_up_on_soon():
    """As one does that hangs: its kernel still accepts."""
    silent = await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
    cluster = Cluster(f"127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    producer = AIOKafkaProducer(**cluster.options)
    async with asyncio.timeout(cluster.request_timeout_ms / 1000):
        with pytest.raises(KafkaConnectionError):
            await producer.start()
    await producer.stop()
    silent.close()


async def _say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


def test_every_client_gives_up_on_a_request_after_the_time_that_is_set():
    settings = Settings.from_environment(
        {"RESOLUTION_KAFKA_SERVERS": "kafka:9092", "RESOLUTION_KAFKA_REQUEST_TIMEOUT_MS": "8000"}
    )
    assert settings.cluster.options["request_timeout_ms"] == 8000
    assert broker_of(settings.cluster)._connection_kwargs["request_timeout_ms"] == 8000
    assert Settings.from_environment(settings.as_environment()) == settings
    assert Settings(kafka_servers="kafka:9092").cluster.options["request_timeout_ms"] == 10_000


@pytest.mark.parametrize("text", ["6999", "300001", "10s", "-1"])
def test_a_time_that_cannot_be_is_refused(text: str):
    with pytest.raises(SettingsError, match=r"RESOLUTION_KAFKA_REQUEST_TIMEOUT_MS is .* from 7000 to 300000"):
        Settings.from_environment({"RESOLUTION_KAFKA_REQUEST_TIMEOUT_MS": text})
