"""The service creates its topics and refuses those it cannot work with."""

import asyncio
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from services.kafka.cluster import Cluster
from services.kafka.topics import TopicError, Topics, ensure_topics
from services.servers import Servers


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
