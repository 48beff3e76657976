"""Writes Kafka transactions. All transactions of this service are made here.

aiokafka speaks version 1 of Kafka's transaction protocol, in which a request names the producer's epoch and no
transaction. A request that got no answer may reach the broker late, inside the producer's next transaction, and end
that one half-way (KIP-890). So after such a request the producer makes no further transaction. The role starts a new
producer, which gets a new epoch, and the broker refuses late requests of the old epoch.

A transaction is also in doubt if Kafka ends it in part. Once the coordinator has decided, it tells each partition by a
marker. It drops the markers of partitions that have no leader at that moment, and takes the transaction as complete: a
single broker that was killed and started again does so. In such a partition the transaction stays open, its readers
wait, and the next transaction of the same producer would decide about both. So `transaction` returns only when readers
see what was written, and a new producer can `end` what an earlier one left open in this way.
"""

# mypy: allow-untyped-calls
# aiokafka's classes, which are extended here, have no types.

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Set
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, NodeNotReadyError, ProducerFenced
from aiokafka.producer import sender as aiokafka_sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.sender import AddPartitionsToTxnHandler, BaseHandler, EndTxnHandler, Sender

from .cluster import Cluster
from .open_transactions import open_transactions

log = logging.getLogger(__name__)

_VISIBLE_WITHIN_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.1

# While the broker writes the markers of the last transaction, it refuses the first partition of the next one, and
# aiokafka tries again after 20 ms. Writing markers takes only a millisecond or two, so the relay would mostly wait.
aiokafka_sender.BACKOFF_OVERRIDE = 0.001


class TransactionInDoubt(ProducerFenced):
    """It is not known whether the broker added partitions to a transaction, or whether it ended one everywhere.

    Derived from ProducerFenced, because that makes aiokafka end a producer for good.
    """


class TransactionalProducer:
    """Produces transactions, one after another. Starting it fences earlier producers with the same id.

    After a transaction that fails, the producer makes no further one.
    """

    def __init__(self, cluster: Cluster, transactional_id: str, **options: Any) -> None:
        """`options` are those of AIOKafkaProducer."""
        self._producer = AIOKafkaProducer(
            **cluster.options, transactional_id=transactional_id, transaction_timeout_ms=60_000, **options
        )
        made = self._producer._sender
        self._producer._sender = _Sender(
            made.client,
            acks=made._acks,
            txn_manager=made._txn_manager,
            message_accumulator=made._message_accumulator,
            retry_backoff_ms=made._retry_backoff * 1000,
            request_timeout_ms=made._request_timeout_ms,
        )
        self._reader = AIOKafkaConsumer(**cluster.options, isolation_level="read_committed")
        self._failed = False
        self._written: dict[TopicPartition, asyncio.Future[Any]] = {}
        self.foreign: set[TopicPartition] = set()
        """Partitions where a producer of others has a transaction open: nobody sees there what is committed."""

    async def __aenter__(self) -> "TransactionalProducer":
        """Ends the transaction that an earlier producer left open. Raises KafkaError."""
        try:
            await self._producer.start()
            await self._reader.start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        try:
            await self._reader.stop()
        finally:
            await self._producer.stop()

    async def left_open(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Returns the partitions where an earlier producer's transaction is still open, with its first offsets.

        Call it before the first transaction, with all partitions that this producer writes to. Raises KafkaError.
        """
        own = self._producer._txn_manager.producer_id
        left: dict[TopicPartition, int] = {}
        for where, starts in (await open_transactions(self._producer.client, partitions)).items():
            if own in starts:
                left[where] = starts[own]
            elif starts:
                self.foreign.add(where)
                log.warning(
                    "producer %d, which is not of this service, has a transaction open on %s/%d: readers of the "
                    "partition wait until it ends. kafka-transactions.sh can abort it",
                    min(starts),
                    where.topic,
                    where.partition,
                )
        return left

    async def abort_left_open(self, *partitions: TopicPartition) -> None:
        """Aborts what an earlier producer left open. Raises as `left_open` and `end` do."""
        if left := await self.left_open(partitions):
            await self.end(left, commit=False)

    async def end(self, partitions: Collection[TopicPartition], *, commit: bool) -> None:
        """Ends what an earlier producer left open in these partitions. Returns when it is closed everywhere.

        Raises TransactionInDoubt and KafkaError; then start a new producer.
        """
        self._failed = True
        await self._producer.begin_transaction()
        for where in partitions:
            self._producer._txn_manager.maybe_add_partition_to_txn(where)
        await (self._producer.commit_transaction() if commit else self._producer.abort_transaction())
        own, give_up_at = self._producer._txn_manager.producer_id, monotonic() + _VISIBLE_WITHIN_SECONDS
        while any(own in starts for starts in (await open_transactions(self._producer.client, partitions)).values()):
            if monotonic() > give_up_at:
                raise TransactionInDoubt("a transaction that was left open could not be ended. Start a new producer.")
            await asyncio.sleep(_LONGEST_PAUSE_SECONDS)
        self._failed = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commits everything that is sent within the block, and returns when readers see it.

        If the block raises, aborts all of it. Raises RuntimeError if an earlier transaction failed, TransactionInDoubt,
        and KafkaError.
        """
        if self._failed:
            # Requests of the failed transaction may reach the broker late and would become part of this one.
            raise RuntimeError("the last transaction failed: start a new producer")
        self._failed = True
        self._written.clear()
        async with self._producer.transaction():
            yield
        await self._until_visible()
        self._failed = False

    async def send_and_wait(self, topic: str, value: bytes, key: bytes | None = None, *, partition: int) -> None:
        """Returns when the broker has the record. Raises KafkaError."""
        sent = await self._producer.send(topic, value, key, partition=partition)
        self._written[TopicPartition(topic, partition)] = sent
        await sent

    def create_batch(self) -> BatchBuilder:
        """Returns an empty record batch, to be filled and sent."""
        batch: BatchBuilder = self._producer.create_batch()
        return batch

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> "asyncio.Future[object]":
        """Sends a record batch. The future is done when the broker has it. Both raise KafkaError."""
        sent: asyncio.Future[object] = await self._producer.send_batch(batch, topic, partition=partition)
        self._written[TopicPartition(topic, partition)] = sent
        return sent

    async def _until_visible(self) -> None:
        """Waits for the markers in all partitions. Raises TransactionInDoubt if one does not come."""
        hidden = {where: (await sent).offset for where, sent in self._written.items()}
        pause, give_up_at = _FIRST_PAUSE_SECONDS, monotonic() + _VISIBLE_WITHIN_SECONDS
        while hidden:
            ends = await self._reader.end_offsets(list(hidden))
            self.foreign -= {where for where, offset in hidden.items() if ends[where] > offset}
            hidden = {w: offset for w, offset in hidden.items() if ends[w] <= offset and w not in self.foreign}
            if hidden and monotonic() > give_up_at:
                where = min(hidden)
                raise TransactionInDoubt(
                    f"a transaction was committed, but readers of {where.topic}/{where.partition} do not see it after "
                    f"{_VISIBLE_WITHIN_SECONDS:.0f} s: Kafka may have ended it in part. Start a new producer."
                )
            if hidden:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


class _Sender(Sender):
    """aiokafka's sender, with request handlers that do not repeat a request that is in doubt."""

    async def close(self) -> None:
        with suppress(TransactionInDoubt):  # nobody waits for the transaction's end any more
            await super().close()

    async def _do_add_partitions_to_txn(self, tps: Set[TopicPartition]) -> bool:
        return await _AddPartitions(self, tps).do(await self._coordinator())

    async def _do_txn_commit(self, commit_result: int) -> None:
        await self._message_accumulator.flush_for_commit()
        if self._txn_manager.is_empty_transaction():
            self._txn_manager.complete_transaction()
        else:
            await _EndTransaction(self, commit_result).do(await self._coordinator())

    async def _coordinator(self) -> int:
        node_id: int = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        return node_id


class _Answered(BaseHandler):
    """A request that is repeated only if it was never sent, or if its answer asks for a repetition."""

    async def do(self, node_id: int) -> bool:
        """Returns whether the request is done. Raises TransactionInDoubt, and KafkaError for a final refusal."""
        request = self.create_request()
        try:
            answer = await self._sender.client.send(node_id, request, group=self.group)
        except NodeNotReadyError:  # there was no connection to send it on
            pause = self.handle_error()
        except IncompatibleBrokerVersion:
            raise
        except (KafkaError, OSError) as error:
            raise TransactionInDoubt(
                f"no answer to {type(request).__name__} ({error!r}): only the topics show what became of the "
                "transaction, and no other may follow under this producer's epoch. Start a new producer."
            ) from error
        else:
            pause = self.handle_response(answer)
        if pause is not None:
            await asyncio.sleep(pause)
        return pause is None


class _AddPartitions(_Answered, AddPartitionsToTxnHandler):
    pass


class _EndTransaction(_Answered, EndTxnHandler):
    pass
