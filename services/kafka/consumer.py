"""A consumer whose positions live in PostgreSQL, moved in the transaction that records what was read.

A role reads in a loop of its own:

    async with consumer.subscribed(ready):
        while True:
            batch = await consumer.next_batch()
            await consumer.handle(batch, judge_and_commit)

When partitions are assigned, the consumer seeks to their stored positions. The role records a batch and moves the
positions by compare-and-swap, so a process that lost its partition, or slept through a rebalance, cannot write.
Whatever fails, the consumer goes back to the stored positions and reads on from there. Offsets committed to Kafka only
let monitoring see the lag.

A poll that raises may have taken records from the client and dropped them. The next batch would not show it, because
transactions leave gaps among the offsets. So before each poll the client's own positions are compared with where the
last poll left them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol
from uuid import UUID

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError, NoOffsetForPartitionError

from services.fault_points import point
from services.judging.record import Record
from services.shards.arithmetic import ALONE, Shard
from services.telemetry import role_metrics
from services.telemetry.health import assigned, progress, stopped, trouble

from .cluster import Cluster
from .faststream_adapter import Subscription
from .record_batches import UnreadablePartition, poll
from .topic_ids import topic_id

log = logging.getLogger(__name__)

Positions = dict[int, int]
"""By partition, the offset of the next record."""

_LAG_SECONDS = 5.0
_CAUGHT_UP_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 5.0
_STOPPED_SECONDS = 15.0
_FINISH_SECONDS = 15.0


class PositionStore(Protocol):
    """Where the positions are kept."""

    async def positions(self, topic_id: UUID, beginnings: Positions) -> tuple[Positions, Positions]:
        """The next offset of each partition, and what was added to the topic's offsets to get it.

        Partitions never read before start at their beginning. Raises where they were read of another topic.
        """
        ...


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll gave."""

    records: Sequence[Record]
    """At least one, in order within each partition."""

    positions: Positions
    """The positions that the records continue: the consumer's own, unless it has sought others since."""


class PositionedConsumer:
    """Reads one topic as a member of a consumer group: of its partitions those of `shard`.

    Offsets are the topic's, plus what the store adds to them where an earlier topic of this name was lost. `forget()`
    drops whatever was remembered of partitions. `gather_ms` is how long the broker may wait for more records before it
    answers; 0 takes what is there at once.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        *,
        group: str,
        store: PositionStore,
        forget: Callable[[], None] = lambda: None,
        max_records: int = 2000,
        gather_ms: int = 0,
        shard: Shard = ALONE,
    ) -> None:
        role_metrics.polls(topic)
        self._topic = topic
        self._store = store
        self._forget = forget
        self._max_records = max_records
        self._positions: Positions = {}
        """Another dictionary after each seek, which is how a batch is known to be from before it."""
        self._bases: Positions = {}
        self._ends: dict[TopicPartition, int] = {}
        self._left_at: dict[TopicPartition, int] = {}
        """Where the client has to stand before the next poll: where the last one, or a seek, left it."""
        self._stopped: dict[TopicPartition, float] = {}
        """Partitions that cannot be read, and the loop's time at which to try them again."""
        self._pause = 0.0
        self._busy = asyncio.Lock()
        self._assigned = asyncio.Event()
        self._subscription = Subscription(
            cluster, topic, group=group, shard=shard, listener=_Listener(self), gather_ms=gather_ms
        )

    @asynccontextmanager
    async def subscribed(self, ready: asyncio.Event) -> AsyncIterator[None]:
        """Joins the group, and leaves it at the end. Sets `ready` once partitions (perhaps none) were assigned."""
        self._assigned = ready
        async with self._subscription, asyncio.TaskGroup() as group:
            reporting = group.create_task(self._report_positions())
            try:
                yield
            finally:
                reporting.cancel()

    async def next_batch(self) -> Polled:
        """Waits for records and returns them. Whatever a poll fails with, the next one reads them again.

        Raises RuntimeError when the client has stopped fetching for good: then only a new one helps.
        """
        while True:
            fetcher = self._consumer._fetcher
            if fetcher is not None and fetcher.error_future.done():
                raise RuntimeError(f"the Kafka client does not fetch {self._topic} any more")
            if records := await self._poll(self._consumer):
                # Since the records left the client nothing else has run, so no seek came between.
                return Polled(records, self._positions)

    async def handle(self, batch: Polled, handle: Callable[[Sequence[Record], Positions], Awaitable[None]]) -> None:
        """Has `handle` record a batch, and move the positions that it continues in the same transaction.

        If that fails, the consumer goes back to the stored positions. A caller that is cancelled waits until the batch
        is recorded. A batch from before a rebalance is dropped, because it is read again.
        """
        async with self._busy:
            if not self._positions or batch.positions is not self._positions:
                return
            records = batch.records
            if any(self._bases.values()):
                records = [replace(record, offset=record.offset + self._bases[record.partition]) for record in records]
            try:
                if any(record.offset < self._positions[record.partition] for record in records):
                    raise RuntimeError("the topic went back before the stored positions")
                await _to_the_end(handle(records, self._positions))
            except Exception:
                self._pause = _next_pause(self._pause)
                trouble(self._topic, "a batch failed; see the log")
                log.exception(
                    "batch of %s failed; reading again from the stored positions",
                    self._topic,
                    extra={"topic": self._topic, "positions": dict(self._positions)},
                )
                await self._rewind()
            else:
                self._positions |= {record.partition: record.offset + 1 for record in records}
                self._pause = 0.0

    async def caught_up(self) -> None:
        """Returns once all was read that was on the topic when its partitions were assigned."""
        await self._assigned.wait()
        consumer = self._consumer
        while any(  # noqa: ASYNC110  nothing says when
            [await consumer.position(tp) < end for tp, end in self._ends.items() if tp in consumer.assignment()]
        ):
            await asyncio.sleep(_CAUGHT_UP_SECONDS)

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        return self._subscription.consumer

    async def _report_positions(self) -> None:
        """Commits the positions to Kafka from time to time, for ever; only monitoring reads them."""
        while True:
            await asyncio.sleep(_LAG_SECONDS)
            offsets = {
                TopicPartition(self._topic, p): offset - self._bases.get(p, 0) for p, offset in self._positions.items()
            }
            if offsets:
                point("commands.reporting")
                try:
                    await self._consumer.commit(offsets)
                    point("commands.reported")
                except (KafkaError, ValueError) as error:
                    log.info("lag not reported: %s", error)

    async def _poll(self, consumer: AIOKafkaConsumer) -> tuple[Record, ...]:
        """What came within half a second; nothing after a failure."""
        try:
            await self._try_stopped_again(consumer)
            self._check_continuity(consumer)
            batches = await poll(consumer, timeout_ms=500, max_records=self._max_records)
        except NoOffsetForPartitionError:
            return ()  # from before the partitions' positions were sought; nothing was taken
        except Exception as error:
            await self._poll_failed(consumer, error)
            return ()
        # What it gave is all that it took. Where a transaction was aborted it moved on and gave nothing.
        self._left_at |= {tp: position for tp in self._left_at if (position := _standing(consumer, tp)) is not None}
        progress(self._topic)
        return tuple(chain.from_iterable(batches.values()))

    def _check_continuity(self, consumer: AIOKafkaConsumer) -> None:
        """Raises RuntimeError where the client has moved on without giving what it passed."""
        for tp in consumer.assignment() & self._left_at.keys():
            if _standing(consumer, tp) != self._left_at[tp]:
                raise RuntimeError(f"{tp.topic}/{tp.partition} was left at {self._left_at[tp]} and is elsewhere now")

    async def _try_stopped_again(self, consumer: AIOKafkaConsumer) -> None:
        """From where they are stored by now: an operator may have skipped what is damaged."""
        now = asyncio.get_running_loop().time()
        again = [tp for tp, at in self._stopped.items() if at <= now]
        for tp in again:
            del self._stopped[tp]
            stopped(tp.topic, tp.partition, "")
        if again:
            async with self._busy:
                if self._positions:
                    await self._rewind()
                consumer.resume(*(consumer.assignment() & set(again)))

    async def _poll_failed(self, consumer: AIOKafkaConsumer, error: Exception) -> None:
        """Says so, and goes back to the stored positions. A partition that cannot be read is left out for a while."""
        role_metrics.poll_failed(self._topic)
        log.error("polling %s failed; reading again from the stored positions: %s", self._topic, error, exc_info=error)
        trouble(self._topic, f"polling fails: {error}", waits=isinstance(error, KafkaError))
        async with self._busy:
            if isinstance(error, UnreadablePartition) and error.where in consumer.assignment():
                consumer.pause(error.where)
                self._stopped[error.where] = asyncio.get_running_loop().time() + _STOPPED_SECONDS
                why = f"{error}. Its commands wait; docs/runbook.md#resolutionpartitionstopped says what to do"
                stopped(error.where.topic, error.where.partition, why)
            if self._positions:
                self._pause = _next_pause(self._pause)
                await self._rewind()

    async def _rewind(self) -> None:
        """Back to what is stored, with nothing remembered. Does not give up while the database is away."""
        self._forget()
        consumer = self._consumer
        while True:
            await asyncio.sleep(self._pause)
            partitions = [tp for tp in consumer.assignment() if tp.partition in self._positions]
            try:
                self._positions = await self._seek(consumer, partitions)
                return
            except Exception as error:
                self._pause = _next_pause(self._pause)
                trouble(self._topic, f"the stored positions cannot be read: {error}", waits=True)
                log.warning("positions cannot be read, trying again in %.1f s: %s", self._pause, error)

    async def _seek(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> Positions:
        id_ = await topic_id(consumer._client, self._topic)
        beginnings = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        positions, bases = await self._store.positions(id_, {tp.partition: first for tp, first in beginnings.items()})
        for tp in partitions:
            position = positions[tp.partition] - bases[tp.partition]
            if position > ends[tp]:
                raise RuntimeError(
                    f"{tp.topic}/{tp.partition} ends at {ends[tp]}, but {position} was read before: Kafka has lost "
                    "what it acknowledged. Restore the topic, or see docs/backup.md."
                )
            if position < beginnings[tp]:
                log.error("%s: records %d to %d expired unread", tp, position, beginnings[tp] - 1)
                role_metrics.expired(tp.topic, beginnings[tp] - position)
                position = beginnings[tp]
            consumer.seek(tp, position)
            self._left_at[tp] = position
        self._bases, self._ends = bases, ends
        return positions

    async def lost(self) -> None:
        """The partitions may be another process's from now on. Waits for the batch in hand."""
        async with self._busy:
            self._positions = {}
            self._left_at = {}
            self._forget()

    async def gained(self, partitions: Sequence[TopicPartition]) -> None:
        """Takes over partitions: goes to their stored positions before the next poll."""
        async with self._busy:
            self._positions = {tp.partition: 0 for tp in partitions}
            self._pause = 0.0
            assigned(self._topic, self._positions.keys())
            await self._rewind()
            self._assigned.set()


def _standing(consumer: AIOKafkaConsumer, tp: TopicPartition) -> int | None:
    """The client's position, without waiting for one."""
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    if assignment is None or tp not in assignment.tps:
        return None
    state = assignment.state_value(tp)
    return state.position if state.has_valid_position else None


async def _to_the_end(recording: Awaitable[None]) -> None:
    """Awaits it. A caller that is cancelled meanwhile waits for the end, but not for ever."""
    task = asyncio.ensure_future(recording)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_FINISH_SECONDS)
        task.cancel()
        raise


def _next_pause(seconds: float) -> float:
    return min(max(0.1, seconds * 2), _LONGEST_PAUSE_SECONDS)


class _Listener(ConsumerRebalanceListener):
    def __init__(self, consumer: PositionedConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._consumer.lost()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._consumer.gained(sorted(assigned))
