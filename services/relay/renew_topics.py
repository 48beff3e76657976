"""Continues a database with new, empty topics, after Kafka has lost its data: `resolution renew-topics`.

The store counts the offsets of the new commands topic on from the old topic's stored positions, so that no two records
have the same offset. The relay publishes all of history again. Senders repeat the commands that had no outcome.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from services.eventstore.database import connect, fetch_value
from services.eventstore.outcomes import last_outcome
from services.failures import Failure
from services.kafka.cluster import Cluster
from services.kafka.read_topics import extents, last_value
from services.kafka.relay_position import Position, published
from services.kafka.topics import Topics, count_partitions, id_of_topic
from services.kafka.transactions import TransactionalProducer


class NotRenewed(Failure):
    """The database cannot continue with these topics. The text says why, and what to do."""


@dataclass(frozen=True)
class _NewTopics:
    """What there is on Kafka."""

    begins: dict[int, int]
    """The first offset of the commands topic, by partition."""
    commands_id: UUID
    """The id of the commands topic."""
    events_id: UUID
    """The id of the events topic."""
    has_checkpoints: bool
    """Whether the checkpoints topic has any record."""


async def renew_topics(cluster: Cluster, topics: Topics, database_url: str) -> int:
    """Makes the database continue with these topics, which must exist. Returns the number of the last outcome.

    The relay will publish all outcomes again. No role may run. If it is interrupted, run it again. Raises NotRenewed,
    KafkaError and psycopg.Error.
    """
    new = await _look(cluster, topics)
    with connect(database_url) as connection:
        connection.execute("LOCK TABLE positions IN EXCLUSIVE MODE")
        _check(connection, topics, new)
        await _begin(cluster, topics, Position(notification_id=_last_reminder(connection)))
        return _renew(connection, new)


async def _look(cluster: Cluster, topics: Topics) -> _NewTopics:
    partitions = await count_partitions(cluster, topics)
    outputs = (topics.events, topics.outcomes, topics.dead_letters, topics.notifications)
    begins, ends = await extents(cluster, (topics.commands, *outputs), partitions)
    full = [topic for topic in outputs if any(ends[topic].values())]
    if (await published(cluster, topics)).outcome_id:
        full.append(topics.relay)
    if full:
        raise NotRenewed(
            f"There are records on {', '.join(full)}. All of history is published again, so they would be there twice. "
            "Delete these topics, or name another RESOLUTION_TOPIC_PREFIX, and run this again."
        )
    return _NewTopics(
        begins[topics.commands],
        await id_of_topic(cluster, topics.commands),
        await id_of_topic(cluster, topics.events),
        await last_value(cluster, topics.checkpoints) is not None,
    )


def _check(connection: psycopg.Connection[Any], topics: Topics, new: _NewTopics) -> None:
    rows = connection.execute("SELECT partition, topic_id FROM positions WHERE consumer = 'commands'").fetchall()
    if not rows:
        raise NotRenewed(
            "This database has never read a commands topic, so there is nothing to renew. Start the roles."
        )
    if any(topic_id == new.commands_id for _, topic_id in rows):
        raise NotRenewed(
            f"{topics.commands} is the topic that this database has read, so it is not lost. Start the roles."
        )


def _last_reminder(connection: psycopg.Connection[Any]) -> int:
    """Returns the number of the last reminder that may have been published."""
    query = (
        "SELECT coalesce((SELECT intended_notification_id FROM publishing), "
        "(SELECT max(notification_id) FROM notifications), 0)"
    )
    return int(fetch_value(connection, query))


async def _begin(cluster: Cluster, topics: Topics, position: Position) -> None:
    """Writes the position from which the relay publishes all of history, except for the published reminders."""
    async with TransactionalProducer(cluster, topics.relay) as producer, producer.transaction():
        await producer.send_and_wait(topics.relay, msgspec.json.encode(position), b"position", partition=0)


def _renew(connection: psycopg.Connection[Any], new: _NewTopics) -> int:
    connection.execute(
        "UPDATE positions AS p SET base = p.next_offset - b.begin, topic_id = %s "
        "FROM unnest(%s::int[], %s::bigint[]) AS b (partition, begin) "
        "WHERE p.consumer = 'commands' AND p.partition = b.partition",
        (new.commands_id, list(new.begins), list(new.begins.values())),
    )
    connection.execute("UPDATE positions SET next_offset = 0, topic_id = %s WHERE consumer = 'timer'", (new.events_id,))
    connection.execute(
        "UPDATE publishing SET timeline = '', intended_outcome_id = 0, intended_notification_id = %s, "
        "published = NULL, ends = NULL",
        (_last_reminder(connection),),
    )
    if not new.has_checkpoints:
        connection.execute("UPDATE checkpoints SET published = 0")
    return last_outcome(connection)
