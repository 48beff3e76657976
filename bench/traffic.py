"""Sends commands at a fixed rate, however slow the service is, and measures how long their outcomes take."""

import asyncio
import json
import random
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.load import marketplace
from services.judging.partitioner import partition_of
from services.kafka.topics import DEFAULT_PARTITIONS, Topics
from services.settings import Settings

_SAMPLED = 0
"""The partition whose commands are timed. The relay publishes all partitions together, so the times of one partition
represent all. Reading an eighth of the outcomes leaves the processors to the service."""

_PAUSE_EVERY = 50
_TICK_SECONDS = 0.005
"""Commands that are due within this time are sent together, so that sending takes little processor time."""


class Traffic:
    """Sends commands, and counts them: `sent` records in all, `garbage` records, and `failed` ones that Kafka refused.

    For the sampled partition it has `unanswered` commands, and `unexpected` outcomes that answer no command, or one a
    second time. `somebody` is the client of the last order.
    """

    def __init__(self, producer: AIOKafkaProducer, topic: str, seed: int) -> None:
        self._producer, self._topic = producer, topic
        self._records = marketplace(random.Random(seed))
        self._waiting: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)
        self.sent = self.garbage = self.failed = self.unexpected = 0
        self._taken: list[float] = []
        self._late: list[float] = []
        self.somebody = "nobody"

    @property
    def unanswered(self) -> int:
        """Of the sampled partition."""
        return sum(map(len, self._waiting.values()))

    async def burst(self, records: int) -> None:
        """Sends this many commands as fast as the broker takes them."""
        for number in range(records):
            await self._send(time.perf_counter())
            if number % _PAUSE_EVERY == 0:
                await asyncio.sleep(0)  # lets the reader of outcomes run
        await self._producer.flush()

    async def steady(self, per_second: float, seconds: float) -> None:
        """Sends at this rate. The time of a command that is sent late counts from the instant at which it was due."""
        start = time.perf_counter()
        for number in range(int(per_second * seconds)):
            due = start + number / per_second
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(max(early, _TICK_SECONDS))
            await self._send(due)
            if number % _PAUSE_EVERY == 0:
                await asyncio.sleep(0)
        await self._producer.flush()

    async def _send(self, due: float) -> None:
        key, value, command_id = next(self._records)
        partition = partition_of(key, DEFAULT_PARTITIONS)
        if partition == _SAMPLED and command_id:
            self._waiting[key.decode(), command_id].append(due)
            self._late.append((time.perf_counter() - due) * 1000)
        sent = await self._producer.send(self._topic, key=key, value=value, partition=partition)
        sent.add_done_callback(self._acknowledged)
        self.sent += 1
        self.garbage += not command_id
        self.somebody = f"client-{key.decode()}"

    def _acknowledged(self, sent: "asyncio.Future[object]") -> None:
        self.failed += sent.cancelled() or sent.exception() is not None

    def times(self) -> tuple[list[float], list[float]]:
        """Returns the sampled partition's times since the last call, in milliseconds: from the instant at which a
        command was due until its outcome was read, and until the command was sent."""
        times = self._taken, self._late
        self._taken, self._late = [], []
        return times

    def answered(self, outcome: bytes, now: float) -> None:
        """Records an outcome that was read from the sampled partition."""
        envelope = json.loads(outcome)
        use = envelope["subject"], envelope["causationid"]
        if due := self._waiting.get(use):
            self._taken.append((now - due.popleft()) * 1000)
            if not due:
                del self._waiting[use]
        elif envelope["data"]["command"] != "ExpireDispute":  # the timer sent it
            self.unexpected += 1


@asynccontextmanager
async def traffic(settings: Settings, seed: int) -> AsyncIterator[Traffic]:
    """Whose outcomes are read as they come."""
    topics = Topics(settings.topic_prefix)
    producer = AIOKafkaProducer(**settings.cluster.options, enable_idempotence=True, max_batch_size=256 * 1024)
    reader = AIOKafkaConsumer(**settings.cluster.options, isolation_level="read_committed", enable_auto_commit=False)
    await producer.start()
    await reader.start()
    reader.assign([TopicPartition(topics.outcomes, _SAMPLED)])
    await reader.seek_to_beginning()
    sends = Traffic(producer, topics.commands, seed)
    reading = asyncio.create_task(_read(reader, sends))
    try:
        yield sends
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await reader.stop()
        await producer.stop()


async def _read(reader: AIOKafkaConsumer, sends: Traffic) -> None:
    while True:
        batches = await reader.getmany(timeout_ms=1000)
        now = time.perf_counter()
        for records in batches.values():
            for record in records:
                assert record.value is not None
                sends.answered(record.value, now)
