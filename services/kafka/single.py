"""Topics of one partition that one writer's transactions follow one another on: how they end, and all of them."""

from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition


async def last_value(bootstrap_servers: str, topic: str) -> bytes | None:
    """The value of the last committed record; None where there is none. Raises KafkaError."""
    partition = TopicPartition(topic, 0)
    consumer = await _consumer(bootstrap_servers, partition)
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


async def all_values(bootstrap_servers: str, topic: str) -> AsyncIterator[bytes]:
    """The values of all records that were committed when this began, in their order. Raises KafkaError."""
    partition = TopicPartition(topic, 0)
    consumer = await _consumer(bootstrap_servers, partition)
    try:
        beginning = (await consumer.beginning_offsets([partition]))[partition]
        end = (await consumer.end_offsets([partition]))[partition]
        async for value in _values(consumer, partition, beginning, end):
            yield value
    finally:
        await consumer.stop()


async def _consumer(bootstrap_servers: str, partition: TopicPartition) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    consumer.assign([partition])
    return consumer


async def _values(consumer: AIOKafkaConsumer, partition: TopicPartition, start: int, end: int) -> AsyncIterator[bytes]:
    consumer.seek(partition, start)
    while await consumer.position(partition) < end:
        for record in (await consumer.getmany(partition, timeout_ms=200)).get(partition, []):
            assert record.value is not None
            yield record.value
