"""Retires old months of outcomes once nobody needs them: `resolution retire-outcomes`.

The relay needs outcomes until it has published them. Auditors need them as long as any of their records is on Kafka,
because each record is compared with what is stored. Operators need dead letters until they have handled them.
"""

import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import date
from time import monotonic, sleep
from typing import Any

import msgspec
import psycopg

from services.eventstore.database import connect
from services.eventstore.positions import commands_bases
from services.failures import Failure
from services.judging.partitioner import partition_of
from services.judging.record import Record
from services.kafka.read_topics import extents, open_streams
from services.kafka.relay_position import published
from services.kafka.topics import Topics, count_partitions
from services.settings import Settings

from . import months

_PATIENCE_SECONDS = 60


class NotRetired(Failure):
    """A month could not be dropped. The text says why."""


class Verdict(msgspec.Struct):
    """Whether an old month is retired."""

    month: date
    """Its first day."""
    outcomes: int
    """How many outcomes it has."""
    stays: str = ""
    """Why it is not retired yet; "" if it is."""
    act: bool = False
    """Whether it stays until somebody acts."""


class _Kafka(msgspec.Struct):
    """What is on Kafka of a shard."""

    partitions: int
    """How many partitions each topic has."""
    published: int
    """The last outcome that the relay has published."""
    begins: dict[int, int]
    """The offset of the first command, as the store counts it, by partition."""
    firsts: dict[str, list[date | None]]
    """By topic, the month of the first record of each partition; None for a record that is not stored."""


async def retire(settings: Settings, older_than: int, *, only_check: bool) -> list[Verdict]:
    """Retires the months of a shard that ended `older_than` months ago or earlier, up to the first one that stays.

    Returns a verdict on each of these months, oldest first. With `only_check`, retires nothing. The roles may run
    meanwhile. The user must be the tables' owner. Raises NotRetired, TopicError, KafkaError and psycopg.Error; months
    that were retired before stay retired.
    """
    topics = Topics(settings.topic_prefix, settings.shard)
    verdicts: list[Verdict] = []
    with connect(settings.database, autocommit=True) as connection:
        old = months.months_before(connection, older_than)
        kafka = await _look(settings, topics, connection) if old else None
        for month in old:
            assert kafka is not None
            found = months.month_of(connection, month)
            verdict = Verdict(month, found.outcomes)
            verdicts.append(verdict)
            verdict.stays = next(_still_needed(connection, topics, kafka, found), "")
            if not verdict.stays:
                verdict.stays = next(_in_hand(connection, kafka, found, older_than), "")
                verdict.act = bool(verdict.stays)
            if verdict.stays:
                break
            if not only_check:
                _drop(connection, month)
    return verdicts


async def _look(settings: Settings, topics: Topics, connection: psycopg.Connection[Any]) -> _Kafka:
    count = await count_partitions(settings.cluster, topics)
    mine = settings.shard.partitions(count)
    outputs = {topics.outcomes: _month_of_outcome, topics.dead_letters: _month_of_letter}
    begins, ends = await extents(settings.cluster, (topics.commands, *outputs), count)
    firsts: dict[str, list[date | None]] = {}
    async with AsyncExitStack() as stack:
        for topic, month_of in outputs.items():
            starts = {partition: begins[topic][partition] for partition in mine}
            streams = await stack.enter_async_context(open_streams(settings.cluster, topic, starts, ends[topic]))
            records = [await stream.peek() for stream in streams.values()]
            firsts[topic] = [month_of(connection, record) for record in records if record is not None]
    bases = commands_bases(connection)
    first_commands = {partition: begins[topics.commands][partition] + bases.get(partition, 0) for partition in mine}
    return _Kafka(count, (await published(settings.cluster, topics)).outcome_id, first_commands, firsts)


def _still_needed(
    connection: psycopg.Connection[Any], topics: Topics, kafka: _Kafka, found: months.Month
) -> Iterator[str]:
    """Yields the reasons why a month stays for now, without anybody having to act."""
    if not months.has_later(connection, found.month):
        yield "nothing was judged after it, and numbers go on from its last one"
    if kafka.published < found.last_outcome_id:
        yield "the relay has not published all of it yet"
    goes = "they go with the topic's retention (docs/retention.md)"
    if any(kafka.begins[partition] <= offset for partition, offset in found.offsets.items()):
        yield f"commands of it are on {topics.commands}: {goes}"
    for topic, firsts in kafka.firsts.items():
        if any(month is None or month <= found.month for month in firsts):
            yield f"records of it are on {topic}: {goes}"


def _in_hand(connection: psycopg.Connection[Any], kafka: _Kafka, found: months.Month, older_than: int) -> Iterator[str]:
    """Yields the reasons why a month stays until somebody acts."""
    if letters := months.letters_in_hand(connection, found.month, older_than):
        yield (
            f"{letters:,} dead letters of it were not handled, or lately only. See `resolution dead list`, and retry "
            "or discard them"
        )
    for order_id, partition in months.orders_of(connection, found.month):
        if partition != partition_of(order_id.encode(), kafka.partitions):
            yield (
                f"commands of order {order_id} came in partition {partition}, where Kafka's own partitioner would not "
                "put them: without their outcomes nobody could tell where its events are. This month is to be kept"
            )


def _month_of_outcome(connection: psycopg.Connection[Any], record: Record) -> date | None:
    message = record.value or b""
    envelope = json.loads(message)
    return months.month_of_outcome(connection, envelope["subject"], envelope["data"]["command_id"], message)


def _month_of_letter(connection: psycopg.Connection[Any], record: Record) -> date | None:
    offset = int(dict(record.headers)["source-offset"] or b"")
    return months.month_of_letter(connection, record.partition, offset)


def _drop(connection: psycopg.Connection[Any], month: date) -> None:
    """Drops a month. Tries again and again for a minute, because appends wait while one attempt waits for readers."""
    give_up = monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            months.retire_month(connection, month)
        except months.MonthInUse:
            if monotonic() > give_up:
                raise NotRetired(
                    f"{month:%Y-%m} stays: the outcomes are read all the while, by a verification or a dump. Run this "
                    "again when that has ended."
                ) from None
            sleep(1)
        else:
            return
