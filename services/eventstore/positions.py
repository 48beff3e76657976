"""Stored positions: how far each consumer has read each partition."""

import asyncio
from typing import Any
from uuid import UUID

import psycopg

from .database import ANSWER_WITHIN_SECONDS, connect


class OtherTopic(Exception):
    """The topic is not the one that this database has read before. The text says what to do."""


class StoredPositions:
    """The stored positions of one consumer, `commands` or `timer`."""

    def __init__(self, database_url: str, consumer: str) -> None:
        self._url = database_url
        self._consumer = consumer

    async def positions(self, topic_id: UUID, beginnings: dict[int, int]) -> tuple[dict[int, int], dict[int, int]]:
        """Returns, by partition, the next offset, and the base that it includes (the topic's own offset is less).

        `beginnings`: the partitions, with the offsets at which to start those that were never read. Raises OtherTopic
        if a partition was read from a topic with another id, and psycopg.Error.
        """
        return await asyncio.to_thread(self._positions, topic_id, beginnings)

    def _positions(self, topic_id: UUID, beginnings: dict[int, int]) -> tuple[dict[int, int], dict[int, int]]:
        partitions = list(beginnings)
        with connect(self._url, answer_within=ANSWER_WITHIN_SECONDS) as connection:
            connection.execute(
                "INSERT INTO positions (consumer, partition, next_offset) "
                "SELECT %s, * FROM unnest(%s::int[], %s::bigint[]) ON CONFLICT DO NOTHING",
                (self._consumer, partitions, list(beginnings.values())),
            )
            connection.execute(
                "UPDATE positions SET topic_id = %s WHERE consumer = %s AND partition = ANY(%s) AND topic_id IS NULL",
                (topic_id, self._consumer, partitions),
            )
            rows = connection.execute(
                "SELECT partition, next_offset, base, topic_id FROM positions "
                "WHERE consumer = %s AND partition = ANY(%s)",
                (self._consumer, partitions),
            ).fetchall()
        if any(known != topic_id for *_, known in rows):
            raise OtherTopic(other_topic(self._consumer))
        return {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}


def other_topic(consumer: str) -> str:
    """Returns the text of OtherTopic for this consumer."""
    return (
        f"The topic that the role {consumer} reads is not the one that this database has read: it was deleted and "
        "created anew, or belongs to another installation. Nothing of it is read. Check RESOLUTION_KAFKA_SERVERS, "
        "RESOLUTION_TOPIC_PREFIX and RESOLUTION_DATABASE_URL. If Kafka has lost its data, docs/backup.md says how to "
        "go on (resolution renew-topics)."
    )


def known_topics(connection: psycopg.Connection[Any]) -> dict[str, set[UUID]]:
    """Returns the ids of the topics that each consumer has read: normally one, or none yet. Raises psycopg.Error."""
    topic_ids: dict[str, set[UUID]] = {}
    for consumer, topic_id in connection.execute("SELECT consumer, topic_id FROM positions WHERE topic_id IS NOT NULL"):
        topic_ids.setdefault(consumer, set()).add(topic_id)
    return topic_ids


def judged_up_to(connection: psycopg.Connection[Any]) -> dict[int, int]:
    """Returns the offset that the commands role reads next, by partition. Raises psycopg.Error."""
    rows = connection.execute("SELECT partition, next_offset FROM positions WHERE consumer = 'commands'")
    return dict(rows.fetchall())


def commands_bases(connection: psycopg.Connection[Any]) -> dict[int, int]:
    """Returns what the store adds to the commands topic's offsets, by partition. Raises psycopg.Error.

    Leaves out partitions to whose offsets it adds nothing.
    """
    rows = connection.execute("SELECT partition, base FROM positions WHERE consumer = 'commands' AND base <> 0")
    return dict(rows.fetchall())
