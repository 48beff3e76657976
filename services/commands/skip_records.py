"""What an operator does about a partition that cannot be read: give up the records that are damaged, and go on."""

import time
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.eventstore.append import Batch
from services.eventstore.application import OrderStore
from services.judging import outcomes
from services.judging.record import Record
from services.kafka.cluster import Cluster
from services.kafka.read_topics import open_consumer
from services.kafka.record_batches import UnreadablePartition


class NotSkipped(Exception):
    """Records that are not given up: a sentence that says why."""


@dataclass(frozen=True)
class Damage:
    """Offsets of the commands topic that cannot be read, from `first` up to and not including `end`."""

    partition: int
    first: int
    end: int


async def find_damage(cluster: Cluster, topic: str, partition: int, first: int) -> Damage:
    """From the offset `first` to the next one that can be read, or to the end of the partition.

    Raises NotSkipped where `first` can be read, and KafkaError.
    """
    where = TopicPartition(topic, partition)
    consumer = await open_consumer(cluster)
    try:
        consumer.assign([where])
        end = (await consumer.end_offsets([where]))[where]
        offset = first
        while offset < end and not await _is_readable(consumer, where, offset):
            offset += 1
    finally:
        await consumer.stop()
    if offset == first:
        raise NotSkipped(f"The record at {partition}/{first} can be read, or is not there yet. Nothing is skipped.")
    return Damage(partition, first, offset)


async def _is_readable(consumer: AIOKafkaConsumer, where: TopicPartition, offset: int) -> bool:
    consumer.seek(where, offset)
    try:
        while not await consumer.getmany(where, timeout_ms=1000, max_records=1):
            if await consumer.position(where) > offset:  # it is the mark of a transaction
                return True
    except UnreadablePartition:
        return False
    return True


def skip(store: OrderStore, topic: str, damage: Damage, base: int, reason: str) -> None:
    """Each damaged offset becomes a dead letter without a value, and the commands role goes on after them.

    `base` is what the store adds to the topic's offsets. Raises the library's PersistenceError where the role has not
    stopped at the first of them; then nothing was written.
    """
    first, end = damage.first + base, damage.end + base
    now = int(time.time() * 1000)
    rows = [
        outcomes.dead(
            Record(topic, damage.partition, offset, now, None, None),
            f"skipped by an operator, for it cannot be read: {reason}",
        )
        for offset in range(first, end)
    ]
    store.append([], Batch({damage.partition: (first, end)}, rows))
