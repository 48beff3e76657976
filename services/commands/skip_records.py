"""Skips the damaged records of a partition that cannot be read, for an operator."""

import time
from dataclasses import dataclass

from services.eventstore.append import Batch
from services.eventstore.application import OrderStore
from services.failures import Failure
from services.judging import outcomes
from services.judging.record import Record
from services.kafka.cluster import Cluster
from services.kafka.read_topics import next_readable


class NotSkipped(Failure):
    """The records are not skipped. The text says why."""


@dataclass(frozen=True)
class Damage:
    """Offsets of the commands topic that cannot be read: from `first` up to, but not including, `end`."""

    partition: int
    first: int
    end: int


async def find_damage(cluster: Cluster, topic: str, partition: int, first: int, base: int) -> Damage:
    """Returns the offsets from `first` to the next one that can be read, or to the end of the partition.

    `base` is what the store adds to the topic's offsets. Raises NotSkipped if `first` can be read, and KafkaError.
    """
    end = await next_readable(cluster, topic, partition, first)
    if end == first:
        raise NotSkipped(
            f"The record at {partition}/{first + base} can be read, or is not there yet. Nothing is skipped."
        )
    return Damage(partition, first, end)


def skip(store: OrderStore, topic: str, damage: Damage, base: int, reason: str) -> None:
    """Stores a dead letter without a value for each damaged offset, and moves the stored position past them.

    `base` is what the store adds to the topic's offsets. Raises the library's PersistenceError, and writes nothing, if
    the commands role has not stopped at the first damaged offset.
    """
    first, end = damage.first + base, damage.end + base
    now = int(time.time() * 1000)
    rows = [
        outcomes.dead(
            Record(topic, damage.partition, offset, now, None, None),
            f"skipped by an operator, because it cannot be read: {reason}",
        )
        for offset in range(first, end)
    ]
    store.append([], Batch({damage.partition: (first, end)}, rows))
