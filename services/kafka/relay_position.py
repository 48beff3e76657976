"""How far the relay has published: its own topic, written in the transactions that publish."""

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from .topics import Topics


class Position(msgspec.Struct, frozen=True):
    """The last outcome published, the last event before it, and the last notification."""

    outcome_id: int = 0
    event_id: int = 0
    notification_id: int = 0


async def published(bootstrap_servers: str, topics: Topics) -> Position:
    """The position of the last committed transaction. Raises KafkaError."""
    partition = TopicPartition(topics.relay, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([partition])
        beginning = (await consumer.beginning_offsets([partition]))[partition]
        end = (await consumer.end_offsets([partition]))[partition]
        position, reach = Position(), 200
        while position == Position() and end > beginning:
            start = max(beginning, end - reach)
            position = await _last_position(consumer, partition, start, end)
            if start == beginning:
                break
            reach *= 10
        return position
    finally:
        await consumer.stop()


async def _last_position(consumer: AIOKafkaConsumer, partition: TopicPartition, start: int, end: int) -> Position:
    consumer.seek(partition, start)
    last = Position()
    while await consumer.position(partition) < end:
        for record in (await consumer.getmany(partition, timeout_ms=200)).get(partition, []):
            assert record.value is not None
            last = msgspec.json.decode(record.value, type=Position)
    return last
