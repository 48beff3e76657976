"""Verifies the history of some partitions: judges their commands again, and compares the result with store and Kafka.

One pass over the stored outcomes, in the order of the store. For each outcome, the verification reads the command from
its topic and judges it. The stored outcome and events must be what the judgment gives. What the relay publishes for
them must be the next records on their topics. An order's state follows the judged events, not the stored ones, so that
one difference is not reported again for each later command.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import takewhile, zip_longest
from operator import attrgetter
from typing import Any

import msgspec
import psycopg
from eventsourcing.persistence import MapperDeserialisationError

from services.eventstore.database import connect
from services.eventstore.event_codec import decode_event, is_stored_as
from services.eventstore.outcomes import OutcomeWithEvents
from services.eventstore.read_events import NumberedRow, digest_of_last_events, histories_of
from services.judging.decode import Received
from services.judging.first_uses import FirstUse, first_use, remember
from services.judging.judge import Judged, Reading, judge, read
from services.judging.order_cache import OrderCache
from services.judging.outcomes import JudgedOutcome, OutcomeKind
from services.judging.partitioner import partition_of
from services.judging.record import Record
from services.kafka.cluster import Cluster
from services.kafka.read_topics import Ends, Stream, open_streams
from services.kafka.topics import Topics
from services.orders import Order
from services.orders.events import Event
from services.orders.evolve import evolve, evolve_all
from services.retention.months import Retired
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import OrderKeys, load_keys
from services.shards.identity import Split

from .earlier_rules import code_of, judged_before, same_but_for_sentences, spelled_twice
from .findings import Findings
from .judged_commands import JudgedCommands, as_first_sent
from .open_disputes import Change, Disputes, OpenDispute
from .published_records import Published
from .stored_history import Chunk, ChunkLoader, is_erased_letter

_CHUNK = 10_000
_SAVE_EVERY_SECONDS = 2.0
_CACHED_ORDERS = 60_000


class Limits(msgspec.Struct):
    """The ends of store and topics, as measured at the start. Offsets of the commands topic include `bases`."""

    outcome_id: int
    """The last outcome to verify."""
    event_id: int
    """The last event to verify."""
    published: int
    """The last outcome that must be on Kafka."""
    begins: Ends
    """The first offset of each topic and partition."""
    ends: Ends
    """The offset after the last record to verify, for each topic and partition."""
    timer: dict[int, int]
    """The timer's next offset in the events topic, by partition."""
    parked: set[tuple[int, int]]
    """Partition and offset of the parked commands."""
    bases: dict[int, int]
    """What the store adds to the offsets of the commands topic, by partition."""
    split: Split
    """The latest split: events and outcomes up to its numbers may be in another shard."""
    retired: Retired
    """The last outcome that was retired, and its last event."""


class Progress(msgspec.Struct):
    """How far a verification has come: all that a later one needs to continue. Stored in the file of `--resume`."""

    partitions: list[int]
    """The partitions that are verified."""
    outcome_id: int = 0
    """The last outcome that was verified."""
    event_id: int = 0
    """The last event of the outcomes so far, retired ones included."""
    offsets: Ends = {}
    """The next offset, by topic and partition."""
    waiting: list[tuple[int, int]] = []
    """Partition and offset of commands that were read, but whose outcome has not come yet."""
    open: list[OpenDispute] = []
    """The disputes that were open at the offsets `Limits.timer`."""
    later: list[Change] = []
    """Disputes that were opened or settled at or after these offsets."""
    findings: dict[str, Any] = {}
    """The findings so far, as `Findings.as_dict` returns them."""
    history: str = ""
    """A digest of the last events up to `event_id`. Empty in a file of an earlier version."""


class History:
    """Verifies the history of `progress.partitions`, and updates `progress`."""

    def __init__(
        self,
        url: str,
        masters: MasterKeys,
        topics: Topics,
        business_time: Callable[[int], datetime],
        limits: Limits,
        progress: Progress,
    ) -> None:
        self._url = url
        self._masters = masters
        self._topics = topics
        self._business_time = business_time
        self._limits = limits
        self._progress = progress
        self._orders = OrderCache(_CACHED_ORDERS)
        self._findings = Findings()
        self._findings.add(progress.findings)
        self._disputes = Disputes(limits.timer, progress.open, progress.later)
        self._streams: dict[str, dict[int, Stream]]
        self._commands: JudgedCommands
        self._published: Published
        self._connection: psycopg.Connection[Any]

    async def run(self, cluster: Cluster, saved: Callable[[Progress], None]) -> Findings:
        """Verifies up to the limits. Calls `saved` from time to time, the last time at the last published outcome.

        Raises KafkaError and psycopg.Error.
        """
        async with AsyncExitStack() as stack:
            self._streams = {topic: await self._opened(stack, cluster, topic) for topic in self._limits.ends}
            self._commands = JudgedCommands(self._streams[self._topics.commands])
            self._published = Published(
                self._topics,
                self._streams,
                self._limits.begins,
                self._limits.published,
                self._disputes,
                self._findings,
            )
            self._connection = stack.enter_context(connect(self._url, autocommit=True))
            await self._commands.wait_again(self._progress.waiting)
            loader = self._loader(stack.enter_context(connect(self._url, autocommit=True)))
            await self._retired(loader, saved)
            await self._chunks(loader, min(self._limits.published, self._limits.outcome_id), saved)
            saved(self._save())
            # The progress is not saved after these: a later verification must look for them on Kafka again.
            await self._chunks(loader, self._limits.outcome_id)
            await self._look_for_surplus()
        return self._findings

    async def _opened(self, stack: AsyncExitStack, cluster: Cluster, topic: str) -> dict[int, Stream]:
        bases = self._limits.bases if topic == self._topics.commands else {}
        return await stack.enter_async_context(
            open_streams(cluster, topic, self._starts(topic), self._limits.ends[topic], bases)
        )

    def _starts(self, topic: str) -> dict[int, int]:
        begins, before = self._limits.begins[topic], self._progress.offsets.get(topic, {})
        return {number: max(begins[number], before.get(number, 0)) for number in self._progress.partitions}

    def _loader(self, connection: psycopg.Connection[Any]) -> ChunkLoader:
        # Exactly one worker has the shard's first partition. It reports the numbers that no partition has.
        reports_gaps = self._topics.shard.number in self._progress.partitions
        return ChunkLoader(connection, self._masters, self._progress.partitions, self._limits.split, reports_gaps)

    async def _retired(self, loader: ChunkLoader, saved: Callable[[Progress], None]) -> None:
        """Verifies the events whose outcomes were retired: each must follow the one before it, and be on Kafka."""
        retired = self._limits.retired
        if self._progress.outcome_id >= retired.outcome_id:
            return
        count = len(self._limits.begins[self._topics.commands])

        def partition(order_id: str) -> int:
            return partition_of(order_id.encode(), count)

        for after in range(self._progress.event_id, retired.event_id, _CHUNK):
            last = min(after + _CHUNK, retired.event_id)
            await self._verify(await asyncio.to_thread(loader.load_retired, after, last, partition))
            self._progress.event_id = last
            saved(self._save())
        self._progress.outcome_id = retired.outcome_id

    async def _chunks(self, loader: ChunkLoader, end: int, saved: Callable[[Progress], None] | None = None) -> None:
        """Verifies outcomes up to `end`. Loads the next chunk while it verifies one."""
        ahead = _load(loader, self._progress.outcome_id, end)
        due = 0.0
        while ahead is not None:
            last, loading = ahead
            chunk = await loading
            ahead = _load(loader, last, end)
            await self._verify(chunk)
            self._progress.outcome_id = last
            if chunk.outcomes:
                self._progress.event_id = chunk.outcomes[-1].last_event_id
            if saved is not None and time.monotonic() > due:
                saved(self._save())
                due = time.monotonic() + _SAVE_EVERY_SECONDS

    # --- a chunk ---

    async def _verify(self, chunk: Chunk) -> None:
        for sentence in chunk.missing:
            self._findings.differs(sentence)
        await asyncio.to_thread(self._load_orders, chunk)
        commands = [(row, await self._command(row, chunk)) for row in chunk.outcomes]
        # If an outcome has no command, its order follows the stored events up to this outcome.
        last_without_command = {row.order_id: row.outcome_id for row, record in commands if record is None}
        to_judge: list[tuple[OutcomeWithEvents, Record]] = []
        for row, record in commands:
            if record is None or row.outcome_id <= last_without_command.get(row.order_id, 0):
                self._follow(row, chunk)
            else:
                to_judge.append((row, record))
        judged = self._judge(to_judge, chunk)
        for row in chunk.outcomes:
            stored = chunk.of(row)
            self._findings.outcomes += row.kind is not OutcomeKind.RETIRED
            self._findings.events += len(stored)
            events = self._compare_with_store(row, stored, judged.get((row.partition, row.record_offset)), chunk.keys)
            await self._published.compare(row, events, chunk.keys)

    def _load_orders(self, chunk: Chunk) -> None:
        orders, missing = self._orders.take(row.order_id for row in chunk.outcomes if row.order_id)
        if missing:
            histories = histories_of(self._connection, missing, chunk.outcomes[0].before)
            keys = load_keys(self._connection, missing, self._masters)
            orders |= {order_id: _project(order_id, histories.get(order_id, ()), keys) for order_id in missing}
        self._orders.put(orders)

    async def _command(self, row: OutcomeWithEvents, chunk: Chunk) -> Record | None:
        """Returns the record of an outcome's command, or None if the command cannot be judged again.

        That is the case if the record has expired or never was on the topic, or if it repeats a retired first use.
        """
        at = (row.partition, row.record_offset)
        if row.kind is OutcomeKind.RETIRED:
            self._findings.retired += 1
            return None
        if row.record_offset < self._limits.begins[self._topics.commands][row.partition]:
            self._findings.expired += 1
            return None
        record = await self._commands.take(*at)
        if record is None:
            self._findings.differs(f"outcome {row.outcome_id} has no command: there is none at {_at(at)}")
        elif self._limits.retired.outcome_id and _repeats_retired_use(row, chunk):
            self._findings.expired += 1
            return None
        return record

    def _judge(
        self, rows: Sequence[tuple[OutcomeWithEvents, Record]], chunk: Chunk
    ) -> dict[tuple[int, int], tuple[JudgedOutcome, list[Event]] | str]:
        """Judges the commands. Returns, by partition and offset, what should be stored, or why judging failed."""
        records = [as_first_sent(self._connection, record) for _, record in rows]
        first = [(row.order_id, row.command_id) for row in chunk.outcomes if row.kind.is_first_use]
        twice = spelled_twice([*first, *chunk.first_uses])
        readings = []
        partitions = len(self._limits.begins[self._topics.commands])
        for (row, record), reading in zip(rows, read(records, self._business_time, partitions), strict=True):
            if _was_judged_before(row, reading[1], twice):
                readings += read([reading[0]], self._business_time, None, as_before=True)
            elif row.kind is OutcomeKind.DEAD and not isinstance(reading[1], str):
                self._outgrown(row, record, chunk.keys)
            else:
                readings.append(reading)
        ids = {reading.order_id for _, reading in readings if isinstance(reading, Received)}
        orders, missing = self._orders.take(ids)
        orders |= {order_id: Order(id=order_id) for order_id in missing}
        judged = judge(readings, orders, [chunk.first_uses], set())
        self._orders.put(orders)
        self._orders.drop(command.order_id for command in judged.parked)
        return _by_offset(judged)

    def _outgrown(self, row: OutcomeWithEvents, record: Record, keys: OrderKeys) -> None:
        """Compares a dead letter that this version reads as a command: its content must be the record's.

        An operator discarded the command, or an earlier version could not read it.
        """
        self._findings.outgrown += 1
        if row.key != record.key or (row.message != record.value and not is_erased_letter(row, keys)):
            self._findings.differs(f"the dead letter of {_at((row.partition, row.record_offset))} is not its record")

    def _follow(self, row: OutcomeWithEvents, chunk: Chunk) -> None:
        """Applies stored events without judging their command. Reports an event that does not follow."""
        if row.kind.is_first_use and row.message is not None:
            remember(chunk.first_uses, row.order_id, row.command_id, FirstUse(row.digest, row.message))
        for stored in chunk.of(row):
            if stored is None:
                continue  # reported already
            orders, _ = self._orders.take([stored.originator_id])
            order = orders.get(stored.originator_id) or Order(id=stored.originator_id)
            try:
                if isinstance(order, Order):
                    evolve(order, decode_event(stored, chunk.keys))
            except (MapperDeserialisationError, ValueError) as error:
                self._findings.differs(f"event {stored.notification_id} does not follow: {error}")
                order = error
            self._orders.put({stored.originator_id: order})

    # --- what is stored ---

    def _compare_with_store(
        self,
        row: OutcomeWithEvents,
        stored: Sequence[NumberedRow | None],
        expected: tuple[JudgedOutcome, list[Event]] | str | None,
        keys: OrderKeys,
    ) -> Sequence[Event | None]:
        """Reports what differs. Returns the stored events, with None for one that cannot be read."""
        if isinstance(expected, str):
            self._differs(row, f"the command at {_at((row.partition, row.record_offset))} cannot be judged: {expected}")
        if expected is None or isinstance(expected, str):  # followed without its command, or reported
            if stored and row.kind.is_repeat:
                self._differs(row, f"outcome {row.outcome_id} belongs to a repeat, but has events")
            return [self._decoded(event, keys) for event in stored]
        outcome, events = expected
        if _compared(outcome) != _compared(row):
            compared = _COMPARED[:-1] if is_erased_letter(row, keys) else _COMPARED
            names = [name for name in compared if getattr(outcome, name) != getattr(row, name)]
            if names and not (names == ["message"] and same_but_for_sentences(outcome.message, row.message)):
                self._differs(row, f"outcome {row.outcome_id} is not what follows from its command: {', '.join(names)}")
        if len(events) != len(stored):
            self._differs(row, f"outcome {row.outcome_id} has {len(stored)} events; {len(events)} follow")
        result: list[Event | None] = []
        for event_row, event in zip_longest(stored, events):
            if event_row is not None and event is not None and is_stored_as(event_row, event, keys):
                result.append(event)
            elif event_row is not None:
                self._differs(row, f"event {event_row.notification_id} is not what follows from its command")
                result.append(self._decoded(event_row, keys))
        return result

    def _differs(self, row: OutcomeWithEvents, sentence: str) -> None:
        self._findings.differs(f"order {row.order_id}: {sentence}" if row.order_id else sentence)

    def _decoded(self, stored: NumberedRow | None, keys: OrderKeys) -> Event | None:
        if stored is None:
            return None  # its number was reported as missing
        try:
            return decode_event(stored, keys)
        except MapperDeserialisationError:
            self._findings.differs(f"event {stored.notification_id} cannot be read")
            return None

    # --- the end ---

    async def _look_for_surplus(self) -> None:
        """Reports what is left on the topics. Only parked commands may be left."""
        await self._published.look_for_surplus()
        await self._commands.read_rest()
        waiting = self._commands.waiting.keys()
        parked = {at for at in self._limits.parked if at[0] in self._progress.partitions}
        for at in sorted(waiting - parked):
            self._findings.differs(f"the command at {_at(at)} has no outcome, and is not parked")
        for at in sorted(parked - waiting):
            if at[1] >= self._limits.begins[self._topics.commands][at[0]]:
                self._findings.differs(f"the command at {_at(at)} is parked, but is not on the topic")
        self._findings.parked += len(parked)

    # --- saving and resuming ---

    def _save(self) -> Progress:
        self._progress.offsets = {
            topic: {partition: stream.position for partition, stream in streams.items()}
            for topic, streams in self._streams.items()
        }
        self._progress.waiting = list(self._commands.waiting)
        self._progress.open = self._disputes.open
        self._progress.later = self._disputes.later
        self._progress.findings = self._findings.as_dict()
        self._progress.history = digest_of_last_events(self._connection, self._progress.event_id)
        return self._progress


def _load(loader: ChunkLoader, after: int, end: int) -> tuple[int, asyncio.Future[Chunk]] | None:
    """Starts to load the next chunk after `after`. Returns its last number and its future, or None after the end."""
    last = min(after + _CHUNK, end)
    if last <= after:
        return None
    return last, asyncio.ensure_future(asyncio.to_thread(loader.load, after, last))


_COMPARED = ("kind", "order_id", "command_id", "digest", "source", "key", "message")
_compared = attrgetter(*_COMPARED)


def _was_judged_before(row: OutcomeWithEvents, reading: Reading, twice: set[tuple[str, str]]) -> bool:
    """Whether an earlier version read this command in its own way. `twice`: see `spelled_twice`."""
    if row.kind is OutcomeKind.DEAD or not isinstance(reading, Received):
        return row.kind is not OutcomeKind.DEAD and isinstance(reading, str)
    if row.kind.is_first_use:
        code = "" if row.kind is OutcomeKind.ACCEPTED else code_of(row.message or b"")
        if judged_before(reading, code, (row.order_id, row.command_id.lower()) in twice):
            return True
    return reading.digest != row.digest


def _repeats_retired_use(row: OutcomeWithEvents, chunk: Chunk) -> bool:
    """Whether the outcome is that of a repeat whose first use was retired."""
    if not row.kind.is_repeat or first_use([chunk.first_uses], row.order_id, row.command_id) is not None:
        return False
    use = row.order_id, row.command_id.lower()
    before = takewhile(lambda other: other is not row, chunk.outcomes)
    return not any(not o.kind.is_repeat and (o.order_id, o.command_id.lower()) == use for o in before)


def _by_offset(judged: Judged) -> dict[tuple[int, int], tuple[JudgedOutcome, list[Event]] | str]:
    results: dict[tuple[int, int], tuple[JudgedOutcome, list[Event]] | str] = {
        (command.partition, command.record_offset): command.why or "an earlier command of its order failed"
        for command in judged.parked
    }
    events = iter(judged.events)
    for row in judged.outcomes:
        results[row.partition, row.record_offset] = row, [next(events) for _ in range(row.events)]
    return results


def _project(order_id: str, history: Iterable[NumberedRow], keys: OrderKeys) -> Order | Exception:
    try:
        return evolve_all(Order(id=order_id), (decode_event(row, keys) for row in history))
    except Exception as failure:  # a bug in our code, or an event that was tampered with
        return failure


def _at(partition_and_offset: tuple[int, int]) -> str:
    partition, offset = partition_and_offset
    return f"{partition}/{offset}"
