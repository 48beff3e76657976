"""Topics of one partition that one writer's transactions follow one another on: how they end, and all of them."""

from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition

from .cluster import Cluster


async def last_value(cluster: Cluster, topic: str) -> bytes | None:
    """The value of the last committed record; None where there is none. Raises KafkaError."""
    partition = TopicPartition(topic, 0)
    consumer = await _consumer(cluster, partition)
    try:
        beginning = (await consumer.beginning_offsets([partition]))[partition]
        end = (await consumer.end_offsets([partition]))[partition]
        last, reach = None, 200
        while last is None and end > beginning:
            start = max(beginning, end - reach)
            async for value in _values(consumer, partition, start, end):
                last = value
            if start == beginning:
                break
            reach *= 10
        return last
    finally:
        await consumer.stop()


async def all_values(cluster: Cluster, topic: str) -> AsyncIterator[bytes]:
    """The values of all records that were committed when this began, in their order. Raises KafkaError."""
    partition = TopicPartition(topic, 0)
    consumer = await _consumer(cluster, partition)
    try:
        beginning = (await consumer.beginning_offsets([partition]))[partition]
        end = (await consumer.end_offsets([partition]))[partition]
        async for value in _values(consumer, partition, beginning, end):
            yield value
    finally:
        await consumer.stop()


async def _consumer(cluster: Cluster, partition: TopicPartition) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(**cluster.options, isolation_level="read_committed", enable_auto_commit=False)
    await consumer.start()
    consumer.assign([partition])
    return consumer


async def _values(consumer: AIOKafkaConsumer, partition: TopicPartition, start: int, end: int) -> AsyncIterator[bytes]:
    consumer.seek(partition, start)
    while await consumer.position(partition) < end:
        for record in (await consumer.getmany(partition, timeout_ms=200)).get(partition, []):
            assert record.value is not None
            yield record.value
