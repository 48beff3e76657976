"""Compares what is stored with what the relay has published: each must be the next record on its topic."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.eventstore.outcomes import StoredOutcome
from services.judging.dead_letters import published_letter
from services.judging.outcomes import OutcomeKind
from services.judging.record import Record
from services.kafka.read_topics import Ends, Stream
from services.kafka.topics import Topics
from services.orders.events import Event
from services.orders.public_events import event_message
from services.orders.texts import published_without_texts
from services.sealing.order_keys import OrderKeys

from .findings import Findings
from .open_disputes import Disputes
from .stored_history import is_erased_letter


class Published:
    """Compares in the order of the store, and lets `disputes` follow the events that are published.

    `streams` are by topic and partition, and begin at `begins`. Without a stream of the events topic, events are not
    compared. What is stored after outcome `published` need not be published yet.
    """

    def __init__(
        self,
        topics: Topics,
        streams: Mapping[str, Mapping[int, Stream]],
        begins: Ends,
        published: int,
        disputes: Disputes,
        findings: Findings,
    ) -> None:
        self._events, self._outcomes = streams.get(topics.events, {}), streams[topics.outcomes]
        self._dead_letters = streams[topics.dead_letters]
        self._begins = begins
        self._published = published
        self._disputes = disputes
        self._findings = findings

    async def compare(self, row: StoredOutcome, events: Sequence[Event | None], keys: OrderKeys) -> None:
        """Compares an outcome and its events (None for one that cannot be read). Raises KafkaError."""
        due = row.outcome_id <= self._published
        for event in events:
            if event is None:
                continue  # reported already; its record on Kafka is reported as a surplus
            stream = self._events[row.partition]
            key, value = event.originator_id.encode(), event_message(event)
            if (offset := stream.take_if(key, value)) is None:
                what = f"event {event.originator_id}:{event.originator_version}"
                wanted = _Wanted(key, value, event.originator_id in keys.erased)
                offset = await self._expect(stream, what, wanted, due)
            if offset is not None:
                self._disputes.follow(row.partition, offset, event)
        if row.kind is OutcomeKind.DEAD:
            self._findings.dead_letters += 1
            stream = self._dead_letters[row.partition]
            wanted = _Wanted(row.key, row.message, is_erased_letter(row, keys), letter=True)
            await self._expect(stream, f"dead letter {row.record_offset}", wanted, due)
        elif row.kind is not OutcomeKind.RETIRED:
            stream, key = self._outcomes[row.partition], row.order_id.encode()
            if stream.take_if(key, row.message) is None:
                wanted = _Wanted(key, row.message)
                offset = await self._expect(stream, f"outcome {row.order_id}:{row.command_id}", wanted, due)
                self._findings.unpublished += offset is None and not due

    async def _expect(self, stream: Stream, what: str, wanted: "_Wanted", due: bool) -> int | None:
        """Returns the offset of a stored message on its topic, or None if it is not there."""
        record = await stream.peek()
        topic = stream.topic
        if record is None:
            if due and not await self._expired(stream, wanted):
                self._findings.differs(f"{topic}: {what} is missing")
            return None
        if not wanted.is_(record):
            if await self._expired(stream, wanted):
                return None
            identity = _identity(wanted.value)
            surplus = await stream.passed_over(
                lambda other: wanted.is_(other) or (identity is not None and _identity(other.value) == identity)
            )
            if surplus is None:
                self._findings.differs(f"{topic}: {what} is missing")
                return None
            for other in surplus:
                self._differs_as_surplus(other)
            record = await stream.peek()
            assert record is not None
            if not wanted.is_(record):
                self._findings.differs(f"{_place(record)} is not what is stored: {what}")
        return stream.take().offset

    async def _expired(self, stream: Stream, wanted: "_Wanted") -> bool:
        """Whether the message was published so long ago that it has left its topic."""
        begin = self._begins[stream.topic][stream.partition]
        if begin == 0 or stream.position > begin:
            return False
        return (record := await stream.peek()) is None or not wanted.is_(record)

    async def look_for_surplus(self) -> None:
        """Reports records on the topics that are not stored. Raises KafkaError."""
        for streams in (self._events, self._outcomes, self._dead_letters):
            for stream in streams.values():
                while (record := await stream.peek()) is not None:
                    stream.take()
                    self._differs_as_surplus(record)

    def _differs_as_surplus(self, record: Record) -> None:
        self._findings.differs(f"{_place(record)} follows from nothing that is stored")


class _Wanted(msgspec.Struct):
    """A record that has to be on its topic."""

    key: bytes | None
    """The record's key."""
    value: bytes | None
    """The record's value."""
    erased: bool = False
    """Whether its texts were erased: the topic may have it with texts or without."""
    letter: bool = False
    """Whether it is a dead letter: of a large one the topic has only the first bytes."""

    def is_(self, record: Record) -> bool:
        if self.letter and (record.key, record.value) == published_letter(self.key, self.value, ())[:2]:
            return True
        if record.key != self.key:
            return False
        if record.value == self.value or not self.erased:
            return bool(record.value == self.value)
        if self.value is None or record.value is None:
            return True
        return published_without_texts(record.value) == published_without_texts(self.value)


def _identity(value: bytes | None) -> Any:
    """Returns what identifies a message, or None if it cannot be read."""
    try:
        envelope = msgspec.json.decode(value or b"")
        return envelope["id"], envelope["type"], envelope["data"].get("duplicate")
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return None


def _place(record: Record) -> str:
    return f"{record.topic}/{record.partition} offset {record.offset}"
