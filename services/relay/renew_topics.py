"""Kafka has lost its data: the database goes on with topics that are new and empty.

Offsets of the new commands topic are counted on from where the old one was read up to, so that no record of it has the
name of an old one. The relay publishes all of history again; senders send again what had no outcome, with the same ids.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from services.eventstore.database import connect, fetch_value
from services.eventstore.outcomes import last_outcome
from services.kafka.cluster import Cluster
from services.kafka.read_topics import extents, last_value
from services.kafka.relay_position import Position, published
from services.kafka.topics import Topics, count_partitions, id_of_topic
from services.kafka.transactions import TransactionalProducer


class NotRenewed(Exception):
    """Why the database cannot go on with these topics: a sentence that says what to do."""


@dataclass(frozen=True)
class _Found:
    """What there is on Kafka. `begins`: of the commands topic."""

    begins: dict[int, int]
    commands_id: UUID
    events_id: UUID
    has_checkpoints: bool


async def renew_topics(cluster: Cluster, topics: Topics, database_url: str) -> int:
    """Makes the database go on with these topics, which have to be there; returns how many outcomes are stored.

    All of them are to be published again. No role may run. Safe to run again where it was interrupted.
    Raises NotRenewed, KafkaError and psycopg.Error.
    """
    found = await _look(cluster, topics)
    with connect(database_url) as connection:
        connection.execute("LOCK TABLE positions IN EXCLUSIVE MODE")
        _check(connection, topics, found)
        await _begin(cluster, topics, Position(notification_id=_reminded(connection)))
        return _renew(connection, found)


async def _look(cluster: Cluster, topics: Topics) -> _Found:
    partitions = await count_partitions(cluster, topics)
    outputs = (topics.events, topics.outcomes, topics.dead_letters, topics.notifications)
    begins, ends = await extents(cluster, (topics.commands, *outputs), partitions)
    full = [topic for topic in outputs if any(ends[topic].values())]
    if (await published(cluster, topics)).outcome_id:
        full.append(topics.relay)
    if full:
        raise NotRenewed(
            f"There are records on {', '.join(full)}: all of history is published again, and they would be there "
            "twice. Delete these topics, or name another RESOLUTION_TOPIC_PREFIX, and run this again."
        )
    return _Found(
        begins[topics.commands],
        await id_of_topic(cluster, topics.commands),
        await id_of_topic(cluster, topics.events),
        await last_value(cluster, topics.checkpoints) is not None,
    )


def _check(connection: psycopg.Connection[Any], topics: Topics, found: _Found) -> None:
    rows = connection.execute("SELECT partition, topic_id FROM positions WHERE consumer = 'commands'").fetchall()
    if not rows:
        raise NotRenewed(
            "This database has never read a commands topic: there is nothing to go on with. Start the roles."
        )
    if any(topic_id == found.commands_id for _, topic_id in rows):
        raise NotRenewed(
            f"{topics.commands} is the topic that this database has read: it is not lost. Start the roles."
        )


def _reminded(connection: psycopg.Connection[Any]) -> int:
    """The last reminder that may have gone out."""
    query = (
        "SELECT coalesce((SELECT intended_notification_id FROM publishing), "
        "(SELECT max(notification_id) FROM notifications), 0)"
    )
    return int(fetch_value(connection, query))


async def _begin(cluster: Cluster, topics: Topics, position: Position) -> None:
    """The relay is to publish everything but the reminders that went out."""
    async with TransactionalProducer(cluster, topics.relay) as producer, producer.transaction():
        await producer.send_and_wait(topics.relay, msgspec.json.encode(position), b"position", partition=0)


def _renew(connection: psycopg.Connection[Any], found: _Found) -> int:
    connection.execute(
        "UPDATE positions AS p SET base = p.next_offset - b.begin, topic_id = %s "
        "FROM unnest(%s::int[], %s::bigint[]) AS b (partition, begin) "
        "WHERE p.consumer = 'commands' AND p.partition = b.partition",
        (found.commands_id, list(found.begins), list(found.begins.values())),
    )
    connection.execute(
        "UPDATE positions SET next_offset = 0, topic_id = %s WHERE consumer = 'timer'", (found.events_id,)
    )
    connection.execute(
        "UPDATE publishing SET timeline = '', intended_outcome_id = 0, intended_notification_id = %s, "
        "published = NULL, ends = NULL",
        (_reminded(connection),),
    )
    if not found.has_checkpoints:
        connection.execute("UPDATE checkpoints SET published = 0")
    return last_outcome(connection)
