"""Splits one database into several, or several into a multiple of them: `resolution split`.

All roles must be stopped, and each new database must be a copy of the one that has its orders now. The split first
checks everything, and writes nothing. Then it writes the relay's position and the checkpoints to the new shards'
topics; from then on a relay with the old settings refuses to run. Then each database deletes the orders of the others,
in a transaction of its own. If it is interrupted, run it again. The only way back is another copy.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import psycopg
from aiokafka import TopicPartition
from psycopg.sql import SQL, Identifier

from projections import READ_MODELS
from services.eventstore.checkpoint_chain import parse
from services.eventstore.database import connect, fetch_value
from services.judging.partitioner import partition_of
from services.kafka.read_topics import all_values, last_value
from services.kafka.relay_position import Position, published
from services.kafka.topics import Topics, count_partitions, ensure_topics
from services.kafka.transactions import TransactionalProducer
from services.settings import Settings

from .arithmetic import Shard
from .identity import Split
from .split_database import CannotSplit, PartitionOf, State, keep_own, state_of, strays

_SHOWN = 5
_OF_ORDERS = [name for name, model in READ_MODELS.items() if model.compared == ("orders",)]
"""Read models whose rows each belong to one order. The others aggregate over orders, and are rebuilt."""


@dataclass(frozen=True)
class _Target:
    """A database that becomes a shard."""

    settings: Settings
    """What it becomes."""
    state: State
    """What it is now."""
    parent: Shard
    """The old shard that it is a copy of, or was."""

    @property
    def done(self) -> bool:
        return self.state.identity.shard == self.settings.shard

    @property
    def ends(self) -> Split:
        return self.state.identity.last_split if self.done else self.state.ends


def split(settings: Settings, say: Callable[[str], None], *, only_check: bool) -> None:
    """Turns the databases of `settings` into shards. Calls `say` with a sentence for each step.

    With `only_check`, writes nothing.

    Raises CannotSplit, TopicError, psycopg.Error and KafkaError.
    """
    targets = _look(settings)
    if all(target.done for target in targets):
        say(f"The {len(targets)} databases are the shards that they are to be already.")
        return
    partitions = asyncio.run(_check_topics(settings, targets, create=not only_check))
    _check_orders(targets, partial(_partition, partitions))
    if only_check:
        say("It can be split as it is.")
        return
    asyncio.run(_hand_over_topics(targets))
    for target in targets:
        shard = target.settings.shard
        if target.done:
            say(f"{shard}: done before.")
            continue
        url, partition = target.settings.database, partial(_partition, partitions)
        lost = keep_own(url, target.state, shard, partitions, partition, _OF_ORDERS, _forget_counts)
        told = ", ".join(f"{table} {rows:,}" for table, rows in lost.items() if rows)
        say(f"{shard}: is one by itself now. Rows of others that it forgot: {told or 'none'}.")


def _partition(partitions: int, order_id: str) -> int:
    return partition_of(order_id.encode(), partitions)


# --- what there is ---


def _look(settings: Settings) -> list[_Target]:
    shards = settings.shards
    if len(shards) < 2:
        raise CannotSplit("RESOLUTION_DATABASE_URL names one database; name those that there are to be.")
    states = [state_of(one.database) for one in shards]
    before = {_count_before(one, state) for one, state in zip(shards, states, strict=True)}
    count = max(before)
    if len(before) > 1 or len(shards) % max(count, 1):
        raise CannotSplit(
            "RESOLUTION_DATABASE_URL has to name a multiple of the databases that there are now, each a copy of one of "
            f"them. There: {', '.join(str(state.identity.shard) for state in states)}. Wanted: {len(shards)}."
        )
    targets = [
        _Target(one, state, Shard(one.shard.number % max(count, 1), count))
        for one, state in zip(shards, states, strict=True)
    ]
    for target in targets:
        _check_copy(target, targets[target.parent.number])
    return targets


def _count_before(one: Settings, state: State) -> int:
    found = state.identity
    return found.last_split.count if found.shard == one.shard else found.shard.count


def _check_copy(target: _Target, first: _Target) -> None:
    """Whether it is what `first` is, of the same parent."""
    shard = target.settings.shard
    if not target.done and target.state.identity.shard != target.parent:
        raise CannotSplit(
            f"The database for {shard} is {target.state.identity.shard}, and has to be a copy of {target.parent}."
        )
    if (target.ends, _salt(target)) != (first.ends, _salt(first)):
        raise CannotSplit(
            f"The database for {shard} is not a copy of the one for {first.settings.shard} as it is now. Stop all "
            "roles, copy it again, and start none before it is split."
        )


def _salt(target: _Target) -> bytes | None:
    notes = target.state.checkpoints
    return None if notes is None else notes.salt


def _check_orders(targets: Sequence[_Target], partition_of: PartitionOf) -> None:
    for target in targets[: targets[0].parent.count]:
        if target.done:
            continue
        found = list(strays(target.settings.database, len(targets), partition_of))
        if found:
            named = ", ".join(f"{order_id} in partition {partition}" for order_id, partition in found[:_SHOWN])
            raise CannotSplit(
                f"{len(found):,} orders have commands in partitions that are not their id's: {named}. Their senders do "
                "not use Kafka's murmur2 partitioner. Such orders cannot be in one of several databases: stay with one."
            )


# --- topics ---


async def _check_topics(settings: Settings, targets: Sequence[_Target], *, create: bool) -> int:
    """Whether all that is stored is published, and covered by checkpoints where there are any; the partitions."""
    topics = Topics(settings.topic_prefix, targets[0].state.identity.shard)
    partitions = await count_partitions(settings.cluster, topics)
    if len(targets) > partitions:
        raise CannotSplit(f"The topics have {partitions} partitions; with more databases some would stay empty.")
    for target in targets[: targets[0].parent.count]:
        await _check_published(target, _topics(target, target.parent))
        await _check_covered(target, _topics(target, target.parent))
    if create:
        await ensure_topics(settings.cluster, topics, len(targets))
    return partitions


async def _check_published(target: _Target, topics: Topics) -> None:
    position = await published(target.settings.cluster, topics)
    missing = target.ends.outcome_id - position.outcome_id
    if missing > 0 or target.ends.notification_id > position.notification_id:
        raise CannotSplit(
            f"{missing:,} outcomes of {target.parent} are not on Kafka yet. Let the relay run by itself (`resolution "
            "serve relay`, databases named as before) until they are, stop it, and copy again."
        )
    if missing < 0 and not target.done:
        raise CannotSplit(
            f"The database of {target.parent} ends before what is on Kafka: it is an earlier state. Restore the last."
        )


async def _check_covered(target: _Target, topics: Topics) -> None:
    last = await last_value(target.settings.cluster, topics.checkpoints)
    if last is not None and (covered := parse(last).last) < target.ends.event_id:
        raise CannotSplit(
            f"The last checkpoint of {target.parent} covers event {covered:,}, and there are {target.ends.event_id:,}. "
            "Let the role checkpoints run by itself until it covers all, stop it, and copy again."
        )


async def _hand_over_topics(targets: Sequence[_Target]) -> None:
    """The new ones first: once the old ones are changed, an old relay refuses, and a new one finds its position."""
    for target in reversed(targets):
        await _copy_checkpoints(target)
        await _write_position(target)


async def _write_position(target: _Target) -> None:
    ends, topics = target.ends, _topics(target, target.settings.shard)
    position = Position(
        ends.outcome_id, ends.event_id, ends.notification_id, _note_all_published(target), topics.shard.count
    )
    if (await published(target.settings.cluster, topics)).outcome_id > position.outcome_id:
        return  # it has published since
    # Its start fences an old relay that still runs.
    async with TransactionalProducer(target.settings.cluster, topics.relay) as producer, producer.transaction():
        await producer.send_and_wait(topics.relay, msgspec.json.encode(position), b"position", partition=0)


def _note_all_published(target: _Target) -> str:
    """As the relay would have; returns the timeline of the numbers."""
    with connect(target.settings.database) as connection:
        timeline: str = fetch_value(
            connection,
            "UPDATE publishing SET intended_outcome_id = greatest(intended_outcome_id, %s), "
            "intended_notification_id = greatest(intended_notification_id, %s) RETURNING timeline",
            (target.ends.outcome_id, target.ends.notification_id),
        )
    return timeline


async def _copy_checkpoints(target: _Target) -> None:
    """The chain goes on in each shard: a new one's topic gets all that there is."""
    old, new = _topics(target, target.parent), _topics(target, target.settings.shard)
    if old.checkpoints == new.checkpoints:
        return
    async with TransactionalProducer(target.settings.cluster, new.checkpoints) as producer:
        await producer.abort_left_open(TopicPartition(new.checkpoints, 0))
        last = await last_value(target.settings.cluster, new.checkpoints)
        there = 0 if last is None else parse(last).number
        async for line in all_values(target.settings.cluster, old.checkpoints):
            if parse(line).number > there:
                async with producer.transaction():
                    await producer.send_and_wait(new.checkpoints, line, partition=0)


def _topics(target: _Target, shard: Shard) -> Topics:
    return Topics(target.settings.topic_prefix, shard)


# --- read models ---


def _forget_counts(connection: psycopg.Connection[Any]) -> None:
    """Read models that count over orders go, and what rebuilds have left; the role projections builds them anew."""
    gone = [name for name in READ_MODELS if name not in _OF_ORDERS]
    gone += [f"{name}{rest}" for name in READ_MODELS for rest in ("_new", "_old")]
    for name in gone:
        connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(name)))
    connection.execute("DELETE FROM read_models WHERE name = ANY(%s)", (gone,))
    if fetch_value(connection, "SELECT to_regclass('projection_tracking') IS NULL"):
        return
    connection.execute("DELETE FROM projection_tracking WHERE application_name = ANY(%s)", (gone,))
    # The events that they had come to may be of others; then the store ends before.
    connection.execute(
        "UPDATE projection_tracking SET notification_id = least(notification_id, "
        "(SELECT coalesce(max(notification_id), 0) FROM order_events)) WHERE application_name = ANY(%s)",
        (_OF_ORDERS,),
    )
