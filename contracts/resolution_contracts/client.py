"""An async client on Kafka: sends commands and awaits their outcomes, and follows the events.

Needs the extra: `pip install 'resolution-contracts[kafka]'`.
"""

import asyncio
import json
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

try:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
    from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
    from aiokafka.partitioner import murmur2
except ImportError as missing:
    raise ImportError("the client needs aiokafka: pip install 'resolution-contracts[kafka]'") from missing

from . import topics
from .closed_connections import notice_closed_connections
from .commands import Command
from .envelope import CommandEnvelope, EventEnvelope, OutcomeEnvelope
from .events import EVENTS, PublicEvent
from .outcomes import CommandAccepted, CommandRejected, Outcome

notice_closed_connections()

log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
_READ_AGAIN_SECONDS = 1.0
_LARGEST_RECORD = 4 * 1024 * 1024
_TIMEOUTS = {"request_timeout_ms": 10_000, "metadata_max_age_ms": 10_000}
"""aiokafka's defaults are 40 s and 5 minutes: the client would notice a hung broker no sooner."""

Json = dict[str, Any]
Start = Literal["beginning", "end"] | datetime | Mapping[int, int]
"""Where to begin: at the first event, at the next one, at an instant of publishing, or at a stored `position`."""


class OutcomePending(TimeoutError):
    """No outcome came in time, and the command may still take effect. To find out, send it again with `command_id`."""

    def __init__(self, order_id: str, command_id: str) -> None:
        super().__init__(f"no outcome yet of command {command_id} on order {order_id}; send it again under this id")
        self.order_id = order_id
        self.command_id = command_id


class NotAcknowledged(TimeoutError):
    """Kafka has not acknowledged the record, which may still arrive. Send it again, under the same command id."""


class DeadLetter(ValueError):
    """The service could not read the record as a command. The text says why.

    A client that may not read the topic of dead letters gets OutcomePending instead.
    """


class SequenceBroken(RuntimeError):
    """The sequence of an order's events has a gap or a repeat: an event was lost, or is there twice."""


@dataclass(frozen=True)
class Received:
    """An event that the client read."""

    envelope: EventEnvelope
    """The event with its CloudEvents attributes."""
    event: PublicEvent | None
    """The event's data; None if this version of the contract does not know the event."""
    position: Mapping[int, int]
    """By partition, the offset from which to go on after this event. Pass it to `Client.events` as `start`."""
    traceparent: str | None = None
    """The W3C trace context of the event, if its command's sender traces the command."""

    @property
    def order_id(self) -> str:
        """The order that the event happened to."""
        return self.envelope.subject


@dataclass(frozen=True)
class Delivered:
    """A record that Kafka has acknowledged."""

    partition: int
    """The partition of the commands topic that has the record."""
    offset: int
    """The record's offset there."""
    answer: asyncio.Future[Json]
    """The outcome's envelope, or `{"dead": reason}`."""


class Client:
    """Sends commands and reads events. Use it as an async context manager.

    `source` says who sends, for example `/orders-service`; only sending needs it. `partitions`: how many partitions of
    the commands topic the service reads, if you know it; the client then sends to no others. `options` go to aiokafka's
    producer and consumers: `security_protocol`, `sasl_mechanism`, `ssl_context`, `request_timeout_ms` (10 s by
    default), and so on. All methods raise aiokafka's KafkaError if the cluster does not answer.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        source: str = "",
        prefix: str = topics.PREFIX,
        partitions: int | None = None,
        **options: Any,
    ) -> None:
        self._source = source
        self._partition_count = partitions
        self._options = {"bootstrap_servers": bootstrap_servers, **_TIMEOUTS, **options}
        self._commands = prefix + topics.COMMANDS.removeprefix(topics.PREFIX)
        self._events = prefix + topics.EVENTS.removeprefix(topics.PREFIX)
        self._outcomes = prefix + topics.OUTCOMES.removeprefix(topics.PREFIX)
        self._dead_letters = prefix + topics.DEAD_LETTERS.removeprefix(topics.PREFIX)
        self._producer = AIOKafkaProducer(
            **self._options, enable_idempotence=True, linger_ms=0, max_request_size=_LARGEST_RECORD
        )
        self._answers = self._consumer()
        self._waiting: defaultdict[tuple[str, str], deque[asyncio.Future[Json]]] = defaultdict(deque)
        self._places: dict[tuple[int, int], asyncio.Future[Json]] = {}
        self._died: dict[tuple[int, int], Json] = {}
        self._unplaced = 0
        self._reader: asyncio.Task[None] | None = None
        self._ended: KafkaError | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def _start(self) -> None:
        await self._producer.start()
        await self._answers.start()
        partitions = [*await self._partitions(self._outcomes), *await self._dead_letter_partitions()]
        self._answers.assign(partitions)
        for partition, end in (await self._answers.end_offsets(partitions)).items():
            self._answers.seek(partition, end)
        assert self._answers._fetcher is not None  # it has started
        self._answers._fetcher.error_future.add_done_callback(self._fetching_ended)
        self._reader = asyncio.create_task(self._read_answers())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await self._stop_producer()
        await _stop(self._answers)

    async def _stop_producer(self) -> None:
        """Delivers what was published, or gives up after 5 s: an idempotent producer would wait for Kafka for ever."""
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._producer.stop()
        except TimeoutError:
            log.warning("Kafka does not answer: what it has not acknowledged is given up on")
            self._producer._sender.sender_task.cancel()
            await self._producer.client.close()

    # --- commands ---

    async def send(
        self,
        order_id: str,
        command: Command,
        *,
        id: str | None = None,
        timeout: float = 30.0,
        traceparent: str | None = None,
    ) -> CommandAccepted | CommandRejected:
        """Publishes a command and returns its outcome. A rejection's `code` says why, its `message` what to do.

        Raises OutcomePending after `timeout` seconds, also if Kafka is down. To retry, pass the exception's
        `command_id` as `id`: the command then takes effect at most once. `traceparent` (W3C) makes the command part of
        a trace, and its events and outcome too. Raises DeadLetter if the service cannot read the command.
        """
        envelope = CommandEnvelope.of(order_id, command, source=self._source, id=id)
        try:
            async with asyncio.timeout(timeout):
                found = await (await self.publish(order_id, envelope.to_json(), traceparent=traceparent))
        except TimeoutError:
            raise OutcomePending(order_id, envelope.id) from None
        if "dead" in found:
            raise DeadLetter(found["dead"])
        outcome: Outcome = OutcomeEnvelope.model_validate(found).outcome()
        assert isinstance(outcome, CommandAccepted | CommandRejected)
        return outcome

    async def publish(self, key: str, value: bytes, *, traceparent: str | None = None) -> asyncio.Future[Json]:
        """Publishes one record unchanged. Returns a future of its outcome's envelope, or of `{"dead": reason}`.

        For tools that pass on records of others. Records that are published one after the other keep their order. When
        this returns, Kafka may not have the record yet; `deliver` waits until Kafka has it.
        """
        answer, _ = await self._publish(key, value, traceparent)
        return answer

    async def deliver(
        self, key: str, value: bytes, *, timeout: float = 10.0, traceparent: str | None = None
    ) -> asyncio.Future[Json]:
        """Publishes one record as `publish` does, and returns once Kafka has acknowledged it.

        Raises NotAcknowledged after `timeout` seconds, and KafkaError if Kafka refuses the record.
        """
        return (await self.deliver_to_place(key, value, timeout=timeout, traceparent=traceparent)).answer

    async def deliver_to_place(
        self, key: str, value: bytes, *, timeout: float = 10.0, traceparent: str | None = None
    ) -> Delivered:
        """Does what `deliver` does, and also says where the record is."""
        answer: asyncio.Future[Json] | None = None
        try:
            async with asyncio.timeout(timeout):
                answer, acknowledged = await self._publish(key, value, traceparent)
                record = await asyncio.shield(acknowledged)
        except BaseException as error:
            if answer is not None:
                answer.cancel()  # nobody gets it
            if isinstance(error, TimeoutError):
                raise NotAcknowledged(f"Kafka has not acknowledged the record within {timeout:g} s") from None
            raise
        return Delivered(record.partition, record.offset, answer)

    async def _publish(
        self, key: str, value: bytes, traceparent: str | None
    ) -> tuple[asyncio.Future[Json], asyncio.Future[Any]]:
        """Returns the futures of the outcome and of Kafka's acknowledgement."""
        if self._ended is not None:
            raise self._ended
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        use = (key, _id_of(value).lower())
        self._waiting[use].append(answer)
        answer.add_done_callback(lambda _: self._forget(use, answer))
        self._unplaced += 1
        try:
            acknowledged: asyncio.Future[Any] = await self._producer.send(
                self._commands,
                key=key.encode(),
                value=value,
                headers=_headers(traceparent),
                partition=self._partition_of(key),
            )
        except BaseException:
            self._unplaced -= 1
            answer.cancel()
            raise
        acknowledged.add_done_callback(lambda done: self._placed(done, answer))
        return answer, acknowledged

    def _partition_of(self, key: str) -> int | None:
        """Returns the partition of a key, or None to let the producer choose it."""
        count = self._partition_count
        return None if count is None else int((murmur2(key.encode()) & 0x7FFFFFFF) % count)

    def _placed(self, done: asyncio.Future[Any], answer: asyncio.Future[Json]) -> None:
        self._unplaced -= 1
        error = done.exception()
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
            return
        place = (done.result().partition, done.result().offset)
        if place in self._died:  # its dead letter was faster than the broker's acknowledgement
            answer.set_result(self._died.pop(place))
        else:
            self._places[place] = answer
            answer.add_done_callback(lambda _: self._places.pop(place, None))
        if not self._unplaced:
            self._died.clear()  # what is left there was sent by others

    def _forget(self, use: tuple[str, str], answer: asyncio.Future[Json]) -> None:
        waiting = self._waiting.get(use)
        if waiting and answer in waiting:
            waiting.remove(answer)
        if not waiting:
            self._waiting.pop(use, None)

    def _fetching_ended(self, fetching: asyncio.Task[None]) -> None:
        """Fails all who wait for an outcome, now and from now on, if aiokafka has stopped fetching for good."""
        if fetching.cancelled() or (error := fetching.exception()) is None:
            return
        log.error("the Kafka client does not read outcomes any more; open a new one: %s", error)
        self._ended = KafkaError(f"the client does not read outcomes any more; open a new one: {error}")
        for answer in [answer for waiting in self._waiting.values() for answer in waiting if not answer.done()]:
            answer.set_exception(self._ended)

    async def _read_answers(self) -> None:
        while True:
            try:
                async for record in self._answers:
                    self._read_answer(record)
            except Exception as error:
                log.exception("reading outcomes failed; trying again: %s", error)
                await asyncio.sleep(_READ_AGAIN_SECONDS)

    def _read_answer(self, record: ConsumerRecord[bytes, bytes]) -> None:
        """Only logs a record that cannot be read: senders may be waiting for what follows it."""
        try:
            if record.topic == self._dead_letters:
                self._buried(record)
            else:
                self._arrived(record)
        except Exception:
            log.exception(
                "skipped a record that cannot be read: %s/%d/%d", record.topic, record.partition, record.offset
            )

    def _arrived(self, record: ConsumerRecord[bytes, bytes]) -> None:
        assert record.value is not None
        envelope: Json = json.loads(record.value)
        if waiting := self._waiting.get((envelope["subject"], envelope["causationid"].lower())):
            answer = waiting.popleft()
            if not answer.done():
                answer.set_result(envelope)

    def _buried(self, record: ConsumerRecord[bytes, bytes]) -> None:
        headers = dict(record.headers)
        place = (int(headers["source-partition"]), int(headers["source-offset"]))
        reason = {"dead": headers["error"].decode(errors="replace")}
        if (answer := self._places.get(place)) is not None:
            if not answer.done():
                answer.set_result(reason)
        elif self._unplaced:
            self._died[place] = reason

    # --- events ---

    async def events(self, start: Start = "end") -> AsyncIterator[Received]:
        """Yields all events from `start` on, for ever. The events of one order come in their sequence.

        All events of an order are in one partition, which keeps them in order. Raises SequenceBroken if the sequence of
        an order's events has a gap or a repeat. A consumer that stores `position` together with what it derives from
        the event handles each event exactly once.
        """
        consumer = self._consumer()
        try:
            await consumer.start()
            partitions = await self._partitions(self._events)
            consumer.assign(partitions)
            position = await _seek(consumer, partitions, start)
            sequences: dict[str, int] = {}
            async for record in consumer:
                position = position | {record.partition: record.offset + 1}
                envelope = EventEnvelope.model_validate_json(record.value)
                _check(envelope, sequences, first=1 if start == "beginning" else None)
                known = envelope.name in EVENTS and envelope.version == 1
                traceparent = dict(record.headers).get("traceparent")
                yield Received(
                    envelope, envelope.event() if known else None, position, traceparent and traceparent.decode()
                )
        finally:
            await _stop(consumer)

    async def _dead_letter_partitions(self) -> list[TopicPartition]:
        """Returns none for a client that may not read dead letters of others. `send` then raises OutcomePending."""
        try:
            return await self._partitions(self._dead_letters)
        except TopicAuthorizationFailedError:
            return []

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in sorted(await self._producer.partitions_for(topic))]

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._options,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_LARGEST_RECORD,
        )


def _headers(traceparent: str | None) -> list[tuple[str, bytes]]:
    trace = [] if traceparent is None else [("traceparent", traceparent.encode())]
    return [("content-type", topics.CONTENT_TYPE.encode()), *trace]


async def _seek(consumer: AIOKafkaConsumer, partitions: list[TopicPartition], start: Start) -> dict[int, int]:
    if start == "beginning":
        offsets = await consumer.beginning_offsets(partitions)
    else:
        offsets = await consumer.end_offsets(partitions)
    if isinstance(start, datetime):
        at = await consumer.offsets_for_times(dict.fromkeys(partitions, int(start.timestamp() * 1000)))
        offsets |= {partition: found.offset for partition, found in at.items() if found is not None}
    elif isinstance(start, Mapping):
        beginnings = await consumer.beginning_offsets(partitions)
        offsets = {partition: start.get(partition.partition, beginnings[partition]) for partition in partitions}
    for partition, offset in offsets.items():
        consumer.seek(partition, offset)
    return {partition.partition: offset for partition, offset in offsets.items()}


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Stops a consumer. If a fetch has just failed, aiokafka raises CancelledError and leaves connections open."""
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        await consumer._client.close()


def _check(envelope: EventEnvelope, sequences: dict[str, int], first: int | None) -> None:
    last = sequences.get(envelope.subject)
    due = first if last is None else last + 1
    if due not in (None, envelope.sequence):
        raise SequenceBroken(f"order {envelope.subject}: event {due} is due, but {envelope.sequence} came")
    sequences[envelope.subject] = envelope.sequence


def _id_of(value: bytes) -> str:
    """Returns the command id in a record, or "" if the record has none."""
    try:
        found = json.loads(value, parse_int=float)["id"]  # an int has a limit of its digits
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""
