"""Sends dead letters again, for an operator."""

from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaProducer
from resolution_contracts.topics import MAX_COMMAND_BYTES

from services.failures import Failure
from services.judging.dead_letters import RETRY_OF, SOURCE_TIMESTAMP, DeadLetter
from services.judging.partitioner import partition_of
from services.kafka.cluster import Cluster
from services.kafka.topics import LARGEST_RECORD, Topics, count_partitions

_ADDED_HEADERS = {"error", "source-topic", "source-partition", "source-offset", SOURCE_TIMESTAMP, RETRY_OF}


class NotRetried(Failure):
    """A dead letter cannot be sent again as the operator asked. The text says why, and what to do."""


async def retry(
    cluster: Cluster,
    topics: Topics,
    letters: Sequence[DeadLetter],
    keep_time: bool,
    published: Callable[[DeadLetter], None],
) -> None:
    """Publishes the records again as their senders wrote them, to the partition of their key.

    Calls `published` after each record. With `keep_time` the records are judged by their first business time. Raises
    NotRetried before it publishes anything. Raises KafkaError, and what `published` raises: the records for which
    `published` was called are then on Kafka.
    """
    for letter in letters:
        if letter.value is None:
            raise NotRetried(
                f"The dead letter {letter.partition}/{letter.record_offset} has no value: it came without one, or it "
                "was erased with the texts of the order that its key names. Discard it."
            )
        if len(letter.value) > MAX_COMMAND_BYTES:
            raise NotRetried(
                f"The dead letter {letter.partition}/{letter.record_offset} has {len(letter.value)} bytes; a command "
                f"has at most {MAX_COMMAND_BYTES}, so it would become a dead letter again. Discard it."
            )
    partitions = await count_partitions(cluster, topics)
    if keep_time:
        for letter in letters:
            _check_time_can_be_kept(letter, _partition(letter, partitions))
    producer = AIOKafkaProducer(**cluster.options, enable_idempotence=True, max_request_size=LARGEST_RECORD)
    try:
        await producer.start()
        for letter in letters:
            headers = [(name, value) for name, value in letter.headers if name not in _ADDED_HEADERS]
            if keep_time:
                headers.append((RETRY_OF, str(letter.record_offset).encode()))
            await producer.send_and_wait(
                topics.commands, letter.value, letter.key, _partition(letter, partitions), headers=headers
            )
            published(letter)
    finally:
        await producer.stop()


def _partition(letter: DeadLetter, partitions: int) -> int:
    return letter.partition if letter.key is None else partition_of(letter.key, partitions)


def _check_time_can_be_kept(letter: DeadLetter, partition: int) -> None:
    where = f"The dead letter {letter.partition}/{letter.record_offset}"
    if SOURCE_TIMESTAMP not in dict(letter.headers):
        raise NotRetried(
            f"{where} does not have its first time, because an earlier version wrote it. Leave out --keep-time."
        )
    if letter.partition != partition:
        raise NotRetried(
            f"{where} was not in the partition of its key, {partition}, so its time says nothing about the order's "
            "other commands. Leave out --keep-time."
        )
