"""Writes Kafka transactions. All transactions of this service are made here.

aiokafka speaks version 1 of Kafka's transaction protocol, in which a request names the producer's epoch and no
transaction. A request that got no answer may reach the broker late, inside the producer's next transaction, and end
that one half-way (KIP-890). So after such a request the producer makes no further transaction. The role starts a new
producer, which gets a new epoch, and the broker refuses late requests of the old epoch.
"""

# mypy: allow-untyped-calls
# aiokafka's classes, which are extended here, have no types.

import asyncio
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, NodeNotReadyError, ProducerFenced
from aiokafka.producer import sender as aiokafka_sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.sender import AddPartitionsToTxnHandler, BaseHandler, EndTxnHandler, Sender

from .cluster import Cluster

# While the broker writes the markers of the last transaction, it refuses the first partition of the next one, and
# aiokafka tries again after 20 ms. Writing markers takes only a millisecond or two, so the relay would mostly wait.
aiokafka_sender.BACKOFF_OVERRIDE = 0.001


class TransactionInDoubt(ProducerFenced):
    """The broker did not answer whether it added partitions to a transaction, or whether it ended one.

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
        self._failed = False

    async def __aenter__(self) -> "TransactionalProducer":
        """Ends the transaction that an earlier producer left open. Raises KafkaError."""
        try:
            await self._producer.start()
        except BaseException:
            await self._producer.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commits everything that is sent within the block. If the block raises, aborts all of it.

        Raises RuntimeError if an earlier transaction failed, TransactionInDoubt, and KafkaError.
        """
        if self._failed:
            # Requests of the failed transaction may reach the broker late and would become part of this one.
            raise RuntimeError("the last transaction failed: start a new producer")
        self._failed = True
        async with self._producer.transaction():
            yield
        self._failed = False

    async def send_and_wait(self, topic: str, value: bytes, key: bytes | None = None, *, partition: int) -> None:
        """Returns when the broker has the record. Raises KafkaError."""
        await self._producer.send_and_wait(topic, value, key, partition=partition)

    def create_batch(self) -> BatchBuilder:
        """Returns an empty record batch, to be filled and sent."""
        batch: BatchBuilder = self._producer.create_batch()
        return batch

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> "asyncio.Future[object]":
        """Sends a record batch. The future is done when the broker has it. Both raise KafkaError."""
        sent: asyncio.Future[object] = await self._producer.send_batch(batch, topic, partition=partition)
        return sent


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
