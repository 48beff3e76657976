"""The commands role: reads records, judges them, and stores each batch with its positions in one transaction."""

import asyncio
import logging
from collections.abc import Iterator, Sequence

from eventsourcing.persistence import IntegrityError

from services.clock import Clock
from services.eventstore.append import Batch, is_refused_data
from services.eventstore.application import OrderStore
from services.eventstore.database import ANSWER_WITHIN_SECONDS
from services.eventstore.parking import Parking, ParkingChanged
from services.eventstore.positions import StoredPositions
from services.fault_points import point
from services.judging.dead_letters import all_at_first_time, first_offset
from services.judging.decode import Received
from services.judging.first_uses import FirstUses, has_capitals
from services.judging.judge import Judged, Reading, judge, read
from services.judging.order_cache import OrderCache, Orders
from services.judging.record import LOG_APPEND_TIME, Record
from services.kafka.cluster import Cluster
from services.kafka.consumer import PositionedConsumer, Positions
from services.kafka.topics import Topics
from services.retention.months import MonthBegan, Months
from services.sealing.master_keys import NO_MASTER, MasterKeys
from services.telemetry import role_metrics, traces

log = logging.getLogger(__name__)

_BATCH_RECORDS = 4000
"""How many records a batch has at most. While one batch commits, the next one is judged."""

_CAREFUL_BATCHES = 50
"""For how many batches the role looks up all command ids after it has met a repeat."""

CACHED_ORDERS = 20_000


class CommandsRole:
    """Judges the records of the commands topic."""

    def __init__(self, cluster: Cluster, topics: Topics, database_url: str, masters: MasterKeys, clock: Clock) -> None:
        if masters.newest == NO_MASTER:
            log.warning(
                "the keys that seal texts are in the same database as the texts, because there is no master key "
                "to wrap them: name one with RESOLUTION_MASTER_KEY_FILE, see docs/erasure.md"
            )
        self._clock = clock
        self._partitions = topics.partitions
        self._store = OrderStore(database_url, masters, answer_within=ANSWER_WITHIN_SECONDS)
        self._cache = OrderCache(CACHED_ORDERS)
        self._parking_and_months: tuple[Parking, Months] | None = None
        self._careful_batches = 0
        self._consumer = PositionedConsumer(
            cluster,
            topics.commands,
            group=topics.prefix + "commands",
            store=StoredPositions(database_url, "commands"),
            forget=self._forget,
            max_records=5 * _BATCH_RECORDS,
            shard=topics.shard,
        )

    async def run(self, ready: asyncio.Event) -> None:
        """Reads, judges and commits for ever. After an exception the role can be started again; nothing is lost."""
        try:
            async with self._consumer.subscribed(ready):
                while True:
                    polled = await self._consumer.next_batch()
                    await self._consumer.handle(polled, self._judge_and_commit)
        finally:
            self._store.close()

    async def _judge_and_commit(self, records: Sequence[Record], positions: Positions) -> None:
        """Returns when all records are committed. After an exception, the first of them may be committed."""
        point("commands.polled")
        if records[0].timestamp_type != LOG_APPEND_TIME:
            log.error(
                "the records of the commands topic have timestamps of their senders, who so choose the business time: "
                "set message.timestamp.type=LogAppendTime on the topic",
                extra={"partition": records[0].partition, "offset": records[0].offset},
            )
        await self._isolate_refused(records, dict(positions))

    async def _isolate_refused(self, records: Sequence[Record], committed: Positions) -> None:
        """Handles all records. If the database refuses one, halves them until that one alone becomes a dead letter."""
        try:
            await self._handle_with_retry(records, committed)
            return
        except Exception as error:
            if not is_refused_data(error):
                raise
            refused = error
        self._forget()
        rest = _uncommitted(records, committed)
        if len(rest) > 1:
            for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
                await self._isolate_refused(half, committed)
            return
        [record] = rest
        log.error(
            "the database refuses what follows from a record, so the record becomes a dead letter: %s",
            type(refused.__cause__ or refused).__name__,
            extra={"partition": record.partition, "offset": record.offset},
        )
        await self._handle_batches(rest, committed, refused="the database cannot store what follows from it")

    async def _handle_with_retry(self, records: Sequence[Record], committed: Positions) -> None:
        """Handles all records. Starts again once if the store changed after the records were judged."""
        try:
            await self._handle_batches(records, committed)
            return
        except IntegrityError:
            # A command id was used before. Looking up all ids first would take a round trip for each batch, in a
            # backlog as long as judging. Repeats are rare, so the unique index finds the first one, and the role looks
            # up the ids of the next batches.
            self._careful_batches = _CAREFUL_BATCHES
        except ParkingChanged:
            log.info("orders were parked or freed meanwhile: judging again")
        except MonthBegan:
            log.info("a month has begun: judging again, and looking up the command ids of earlier months from now on")
        self._forget()
        await self._handle_batches(_uncommitted(records, committed), committed)

    async def _handle_batches(self, records: Sequence[Record], committed: Positions, refused: str = "") -> None:
        """Judges and commits the records in batches, and updates `committed` with each commit.

        `refused` says why all these records become dead letters; "" judges them.
        """
        if self._parking_and_months is None:
            self._parking_and_months = await asyncio.to_thread(lambda: (self._store.parking(), self._store.months()))
        parking, months = self._parking_and_months
        positions = dict(committed)
        uncommitted: FirstUses = {}
        commit: asyncio.Future[None] | None = None
        try:
            for in_batch in _in_batches(await self._at_first_time(records)):
                with role_metrics.stage("decode"):
                    readings = self._read(in_batch) if not refused else [(record, refused) for record in in_batch]
                judged = await self._judge(readings, uncommitted, parking.orders, months)
                spans = _traced(in_batch, judged) if traces.on() else traces.Spans()
                moves = _advance(positions, in_batch)
                batch = Batch(moves, judged.outcomes, parking.version, judged.parked, month=months.newest)
                parking.version += any(command.why for command in judged.parked)
                uncommitted |= judged.first_uses
                point("commands.judged")
                if commit is not None:
                    await commit
                commit = asyncio.ensure_future(self._commit(judged, batch, committed, spans))
        finally:
            if commit is not None:
                await commit

    async def _commit(self, judged: Judged, batch: Batch, committed: Positions, spans: traces.Spans) -> None:
        point("commands.inserting")
        with role_metrics.stage("commit"):
            await asyncio.to_thread(self._store.append, judged.events, batch)
        point("commands.committed")
        role_metrics.judged(judged.tally.total(), judged.tally)
        spans.end()
        committed |= {partition: after for partition, (_, after) in batch.positions.items()}

    async def _judge(
        self, readings: Sequence[tuple[Record, Reading]], uncommitted: FirstUses, parked: set[str], months: Months
    ) -> Judged:
        commands = [reading for _, reading in readings if isinstance(reading, Received)]
        orders, missing = self._cache.take(command.order_id for command in commands)
        committed: FirstUses = {}
        look_up_ids = self._careful_batches or any(
            c.order_id in self._cache.earlier or has_capitals(c.command_id) for c in commands
        )
        if missing or look_up_ids:
            with role_metrics.stage("load"):
                loaded, committed = await asyncio.to_thread(self._load, missing, commands, months)
            orders |= loaded
        with role_metrics.stage("judge"):
            judged = judge(readings, orders, (uncommitted, committed), parked)
        self._cache.put(orders)
        self._cache.earlier |= judged.in_capitals
        if judged.parked:
            self._cache.drop(command.order_id for command in judged.parked)
        return judged

    def _load(self, missing: list[str], commands: Sequence[Received], months: Months) -> tuple[Orders, FirstUses]:
        """Returns the missing orders, and earlier uses of those command ids that have to be looked up."""
        loaded = self._store.orders(missing) if missing else {}
        if missing and months.others:
            self._cache.earlier |= self._store.with_earlier_commands(missing, months.newest)
        if missing:
            self._cache.earlier |= self._store.with_ids_in_capitals(missing)
        if careful := self._careful_batches > 0:
            self._careful_batches -= 1
        earlier = self._cache.earlier
        uses = {
            (c.order_id, c.command_id)
            for c in commands
            if careful or c.order_id in earlier or has_capitals(c.command_id)
        }
        return loaded, self._store.first_uses(uses) if uses else {}

    def _read(self, records: Sequence[Record]) -> list[tuple[Record, Reading]]:
        return read(records, self._clock.of_record, self._partitions)

    async def _at_first_time(self, records: Sequence[Record]) -> Sequence[Record]:
        if all(first_offset(record) is None for record in records):
            return records
        return await asyncio.to_thread(all_at_first_time, records, self._is_dead, self._store.dead_letters)

    def _is_dead(self, record: Record) -> bool:
        [(_, reading)] = self._read([record])
        return isinstance(reading, str)

    def _forget(self) -> None:
        self._cache.clear()
        self._store.forget_keys()
        self._parking_and_months = None


def _traced(records: Sequence[Record], judged: Judged) -> traces.Spans:
    """Begins a span for each command whose sender traces it, and puts the span's context into the outcome."""
    spans = traces.Spans()
    rows = {(row.partition, row.record_offset): row for row in judged.outcomes}
    for record in records:
        traceparent = traces.given(record.headers, record.value)
        row = rows.get((record.partition, record.offset))
        if traceparent is None or row is None:
            continue
        about = {"outcome": row.kind, "order_id": row.order_id, "command_id": row.command_id}
        position = {"partition": record.partition, "offset": record.offset}
        row.traceparent = spans.begin("judge", traceparent, "consumer", **about, **position)
    return spans


def _in_batches(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), _BATCH_RECORDS):
        yield records[start : start + _BATCH_RECORDS]


def _uncommitted(records: Sequence[Record], committed: Positions) -> Sequence[Record]:
    return [record for record in records if record.offset >= committed[record.partition]]


def _advance(positions: Positions, records: Sequence[Record]) -> dict[int, tuple[int, int]]:
    """Returns for each partition the position before and after these records. Updates `positions`."""
    after = {record.partition: record.offset + 1 for record in records}
    moves = {partition: (positions[partition], offset) for partition, offset in after.items()}
    positions |= after
    return moves
