"""Publishes commands and waits for what becomes of them."""

import asyncio
from collections import defaultdict, deque
from types import TracebackType
from typing import Any, Self

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from resolution_contracts.topics import CONTENT_TYPE

from services.kafka.consumer import Record
from services.kafka.topics import Topics

Outcome = dict[str, Any]


class Sender:
    """An async context manager around a producer of commands and a reader of outcomes.

    Outcomes are matched by order id and command id, in the order sent; a record that became a dead letter by its place
    in the commands topic.
    """

    def __init__(self, bootstrap_servers: str, topics: Topics) -> None:
        self._topics = topics
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap_servers,
            enable_idempotence=True,
            linger_ms=0,
            max_request_size=4 * 1024 * 1024,
        )
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap_servers, isolation_level="read_committed", enable_auto_commit=False
        )
        self._waiting: defaultdict[tuple[str, str], deque[asyncio.Future[Outcome]]] = defaultdict(deque)
        self._answers = 0
        self._answered = asyncio.Event()
        self._dead: defaultdict[tuple[int, int], asyncio.Future[Outcome]] = defaultdict(
            lambda: asyncio.get_running_loop().create_future()
        )

    async def __aenter__(self) -> Self:
        await self._producer.start()
        await self._consumer.start()
        partitions = [
            TopicPartition(topic, partition)
            for topic in (self._topics.outcomes, self._topics.dead_letters)
            for partition in sorted(await self._producer.partitions_for(topic))
        ]
        self._consumer.assign(partitions)
        for partition, end in (await self._consumer.end_offsets(partitions)).items():
            self._consumer.seek(partition, end)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._producer.stop()
        await self._consumer.stop()

    async def publish(self, key: str, value: bytes) -> asyncio.Future[Outcome]:
        """Publishes one record; the future is its outcome's envelope, or `{"dead": reason}` for a dead letter.

        Records published one after the other keep their order. Raises aiokafka's KafkaError.
        """
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        use = (key, _id_of(value))
        self._waiting[use].append(outcome)
        acknowledged = await self._producer.send(
            self._topics.commands,
            key=key.encode(),
            value=value,
            headers=[("content-type", CONTENT_TYPE.encode())],
        )
        acknowledged.add_done_callback(lambda done: self._placed(done, use, outcome))
        return outcome

    def _placed(self, done: asyncio.Future[Any], use: tuple[str, str], outcome: asyncio.Future[Outcome]) -> None:
        if (error := done.exception()) is not None:
            outcome.set_exception(error)
            return
        place = (done.result().partition, done.result().offset)

        def died(dead: asyncio.Future[Outcome]) -> None:
            if not outcome.done():
                self._waiting[use].remove(outcome)
                outcome.set_result(dead.result())

        self._dead[place].add_done_callback(died)
        outcome.add_done_callback(lambda _: self._dead.pop(place, None))

    async def seen(self, answers: int) -> None:
        """Returns when so many outcomes and dead letters were read, whoever asked for them."""
        while self._answers < answers:
            self._answered.clear()
            await self._answered.wait()

    async def _read(self) -> None:
        async for record in self._consumer:
            self._answers += 1
            self._answered.set()
            if record.topic == self._topics.dead_letters:
                headers = {
                    name: value.decode() for name, value in record.headers if name.startswith(("error", "source"))
                }
                place = (int(headers["source-partition"]), int(headers["source-offset"]))
                self._dead[place].set_result({"dead": headers["error"]})
            else:
                self._arrived(record)

    def _arrived(self, record: Record) -> None:
        assert record.value is not None
        envelope = msgspec.json.decode(record.value)
        waiting = self._waiting.get((envelope["subject"], envelope["causationid"]))
        if waiting:
            outcome = waiting.popleft()
            if not outcome.done():
                outcome.set_result(envelope)


class _Identified(msgspec.Struct):
    id: str


def _id_of(value: bytes) -> str:
    """The command id in a record that may be anything."""
    try:
        return msgspec.json.decode(value, type=_Identified).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
