"""A consumer whose positions are stored in PostgreSQL, in the same transaction as what the role did with the records.

A role reads in its own loop:

    async with consumer.subscribed(ready):
        while True:
            batch = await consumer.next_batch()
            await consumer.handle(batch, judge_and_commit)

When partitions are assigned, the consumer seeks to their stored positions. The role stores a batch and moves the
positions by compare-and-swap, so a process that lost its partition, or slept through a rebalance, cannot write. After
any failure the consumer returns to the stored positions and reads from there. It commits offsets to Kafka only so that
monitoring can see the lag.

A poll that raises may have dropped records. The next batch would not reveal the loss, because transactions leave gaps
between offsets anyway. So before each poll, the consumer checks that the client's positions are where the last poll
left them.
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
    """Loads the stored positions."""

    async def positions(self, topic_id: UUID, beginnings: Positions) -> tuple[Positions, Positions]:
        """Returns two numbers for each partition: the stored position, and the base that it includes.

        A stored position is the topic's offset plus the base. A partition that was never read starts at its beginning.
        Raises if the positions belong to a topic with another id.
        """
        ...


@dataclass(frozen=True, slots=True)
class Polled:
    """The records of one poll."""

    records: Sequence[Record]
    """At least one record, in order within each partition."""

    positions: Positions
    """The positions before these records. The same object as the consumer's, unless the consumer has seeked since."""


class PositionedConsumer:
    """Reads the partitions of `shard` in one topic, as a member of a consumer group.

    If an earlier topic of this name was lost, offsets are the topic's plus the base that the store adds. The consumer
    calls `forget()` when whatever the role remembers about partitions may be wrong. `gather_ms` is how long the broker
    may wait for more records before it answers; with 0 it answers at once.
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
        """A new dictionary after each seek, so that a batch from before the seek is recognized."""
        self._bases: Positions = {}
        self._ends: dict[TopicPartition, int] = {}
        self._left_at: dict[TopicPartition, int] = {}
        """The offset where the last poll or seek left the client. It must be the same before the next poll."""
        self._stopped: dict[TopicPartition, float] = {}
        """Partitions that cannot be read, and the event loop's time at which to try them again."""
        self._pause = 0.0
        self._busy = asyncio.Lock()
        self._assigned = asyncio.Event()
        self._subscription = Subscription(
            cluster, topic, group=group, shard=shard, listener=_Listener(self), gather_ms=gather_ms
        )

    @asynccontextmanager
    async def subscribed(self, ready: asyncio.Event) -> AsyncIterator[None]:
        """Joins the group, and leaves it at the end. Sets `ready` once partitions, or none, are assigned."""
        self._assigned = ready
        async with self._subscription, asyncio.TaskGroup() as group:
            reporting = group.create_task(self._report_positions())
            try:
                yield
            finally:
                reporting.cancel()

    async def next_batch(self) -> Polled:
        """Waits for records and returns them. If a poll fails, the next poll reads its records again.

        Raises RuntimeError if the client has stopped reading for good and the caller needs a new one.
        """
        while True:
            if _has_ended(self._consumer):
                raise RuntimeError(f"the Kafka client does not read {self._topic} any more")
            if records := await self._poll(self._consumer):
                # Nothing else has run since the client returned the records, so no seek happened in between.
                return Polled(records, self._positions)

    async def handle(self, batch: Polled, handle: Callable[[Sequence[Record], Positions], Awaitable[None]]) -> None:
        """Calls `handle` to store a batch and move the positions in the same transaction.

        If that fails, the consumer returns to the stored positions. A caller that is cancelled waits until the batch is
        stored. A batch from before a rebalance is dropped, because its records are read again.
        """
        async with self._busy:
            if not self._positions or batch.positions is not self._positions:
                return
            records = batch.records
            if any(self._bases.values()):
                records = [replace(record, offset=record.offset + self._bases[record.partition]) for record in records]
            try:
                if any(record.offset < self._positions[record.partition] for record in records):
                    raise RuntimeError("the topic returned records from before the stored positions")
                await _finish(handle(records, self._positions))
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
        """Returns once everything was read that was on the topic when its partitions were assigned."""
        await self._assigned.wait()
        consumer = self._consumer
        while any(  # noqa: ASYNC110  aiokafka signals no position
            [await consumer.position(tp) < end for tp, end in self._ends.items() if tp in consumer.assignment()]
        ):
            await asyncio.sleep(_CAUGHT_UP_SECONDS)

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        return self._subscription.consumer

    async def _report_positions(self) -> None:
        """Commits the positions to Kafka every few seconds, for ever. Only monitoring reads them."""
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
                    log.info("positions not reported to Kafka: %s", error)

    async def _poll(self, consumer: AIOKafkaConsumer) -> tuple[Record, ...]:
        """Returns the records that came within half a second, or none after a failure."""
        try:
            await self._try_stopped_again(consumer)
            self._check_continuity(consumer)
            batches = await poll(consumer, timeout_ms=500, max_records=self._max_records)
        except NoOffsetForPartitionError:
            return ()  # polled before the seek to the stored positions; no records were taken
        except Exception as error:
            await self._poll_failed(consumer, error)
            return ()
        # The poll returned every record that it passed. It may have moved past aborted records and returned none.
        self._left_at |= {tp: offset for tp in self._left_at if (offset := _client_position(consumer, tp)) is not None}
        progress(self._topic)
        return tuple(chain.from_iterable(batches.values()))

    def _check_continuity(self, consumer: AIOKafkaConsumer) -> None:
        """Raises RuntimeError if the client has moved past records without returning them."""
        for tp in consumer.assignment() & self._left_at.keys():
            if (offset := _client_position(consumer, tp)) != self._left_at[tp]:
                raise RuntimeError(f"{tp.topic}/{tp.partition} was left at {self._left_at[tp]} and is at {offset} now")

    async def _try_stopped_again(self, consumer: AIOKafkaConsumer) -> None:
        """Resumes stopped partitions at their stored positions. An operator may have skipped the damaged records."""
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
        """Reports the error and returns to the stored positions. Pauses a partition that cannot be read."""
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
        """Returns to the stored positions and forgets everything else. Retries until the database answers."""
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
                log.warning("stored positions cannot be read, trying again in %.1f s: %s", self._pause, error)

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
        """Gives up the partitions, which another process may read from now on. Waits for the current batch."""
        async with self._busy:
            self._positions = {}
            self._left_at = {}
            self._forget()

    async def gained(self, partitions: Sequence[TopicPartition]) -> None:
        """Takes over partitions, and seeks to their stored positions before the next poll."""
        async with self._busy:
            self._positions = {tp.partition: 0 for tp in partitions}
            self._pause = 0.0
            assigned(self._topic, self._positions.keys())
            await self._rewind()
            self._assigned.set()


def _has_ended(consumer: AIOKafkaConsumer) -> bool:
    """Whether a task of the client has ended: the one that fetches, or one of those that keep it in its group."""
    fetcher, coordinator = consumer._fetcher, consumer._coordinator
    if fetcher is not None and fetcher.error_future.done():
        return True
    return coordinator is not None and (
        _has_failed(coordinator._coordination_task)  # also retrieves its error, which asyncio would log some day
        or coordinator._coordination_task.done()
        # These two also end and begin with each rebalance.
        or _has_failed(coordinator._heartbeat_task)
        or _has_failed(coordinator._commit_refresh_task)
    )


def _has_failed(task: asyncio.Task[None] | None) -> bool:
    return task is not None and task.done() and not task.cancelled() and task.exception() is not None


def _client_position(consumer: AIOKafkaConsumer, tp: TopicPartition) -> int | None:
    """Returns the client's position, or None if it has none yet. `AIOKafkaConsumer.position` would wait for one."""
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    if assignment is None or tp not in assignment.tps:
        return None
    state = assignment.state_value(tp)
    return state.position if state.has_valid_position else None


async def _finish(handling: Awaitable[None]) -> None:
    """Awaits `handling`. A caller that is cancelled meanwhile still waits for it, at most `_FINISH_SECONDS`."""
    task = asyncio.ensure_future(handling)
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
