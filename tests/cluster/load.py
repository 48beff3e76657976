"""Publishes commands whatever fails, and measures the longest time without an outcome."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from time import monotonic

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from services.judging.partitioner import partition_of
from tests.faults.load import some_day
from tests.support.installation import PARTITIONS, Installation, until

_ORDERS_PER_PARTITION = 5


@asynccontextmanager
async def under_steady_load(
    installation: Installation, dice: random.Random, per_second: int = 24
) -> AsyncIterator[None]:
    """A sender for each partition, so that one whose broker is down doesn't keep the others from sending."""

    async def publish(orders: list[str]) -> None:
        own_dice = random.Random(dice.random())
        while True:
            with suppress(KafkaError):
                async for _ in some_day(installation, own_dice, orders):
                    await asyncio.sleep(PARTITIONS / per_second)

    senders = [asyncio.create_task(publish(orders)) for orders in _orders_by_partition()]
    try:
        yield
    finally:
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)


class Outcomes:
    """When outcomes came, as a `read_committed` reader sees them."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._came = [monotonic()]

    @classmethod
    @asynccontextmanager
    async def watched(cls, installation: Installation) -> AsyncIterator["Outcomes"]:
        consumer = AIOKafkaConsumer(
            **(installation.settings.cluster.options | {"request_timeout_ms": 5_000, "metadata_max_age_ms": 5_000}),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        consumer.assign([TopicPartition(installation.topics.outcomes, n) for n in range(PARTITIONS)])
        outcomes = cls(consumer)
        reading = asyncio.create_task(outcomes._read())
        try:
            yield outcomes
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            await consumer.stop()

    async def flow(self, seconds: float = 150) -> None:
        """Returns when outcomes have come in each of the next three seconds."""
        for _ in range(3):
            mark = len(self._came)
            await until(lambda mark=mark: len(self._came) > mark, seconds)
            await asyncio.sleep(1)

    def begin(self) -> None:
        """From here on the silence is measured."""
        self._came = self._came[-1:]

    def longest_silence(self) -> float:
        """The longest time in seconds without an outcome, up to now."""
        came = [*self._came, monotonic()]
        return max(after - before for before, after in pairwise(came))

    async def _read(self) -> None:
        while True:
            with suppress(KafkaError):
                if await self._consumer.getmany(timeout_ms=200):
                    self._came.append(monotonic())


def _orders_by_partition() -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(PARTITIONS)]
    number = 0
    while any(len(orders) < _ORDERS_PER_PARTITION for orders in found):
        number += 1
        orders = found[partition_of(f"order-{number}".encode(), PARTITIONS)]
        if len(orders) < _ORDERS_PER_PARTITION:
            orders.append(f"order-{number}")
    return found
