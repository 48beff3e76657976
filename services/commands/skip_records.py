"""What an operator does about a partition that cannot be read: give up the records that are damaged, and go on."""

import time
from dataclasses import dataclass

from services.eventstore.append import Batch
from services.eventstore.application import OrderStore
from services.judging import outcomes
from services.judging.record import Record
from services.kafka.cluster import Cluster
from services.kafka.read_topics import next_readable


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
    end = await next_readable(cluster, topic, partition, first)
    if end == first:
        raise NotSkipped(f"The record at {partition}/{first} can be read, or is not there yet. Nothing is skipped.")
    return Damage(partition, first, end)


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
