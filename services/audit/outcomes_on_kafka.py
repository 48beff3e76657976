"""Compares the stored outcomes and dead letters with those on Kafka: each must be there once, with the same content."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import psycopg

from services.eventstore.database import connect_read_only
from services.eventstore.outcomes import StoredOutcome, outcomes_of_partitions
from services.judging.outcomes import OutcomeKind
from services.kafka.cluster import Cluster
from services.kafka.read_topics import extents, open_streams
from services.kafka.relay_position import published
from services.kafka.topics import Topics, count_partitions
from services.sealing.order_keys import OrderKeys

from .findings import Findings
from .open_disputes import Disputes
from .published_records import Published

_AT_ONCE = 10_000


async def compare_outcomes(database_url: str, cluster: Cluster, topics: Topics) -> Findings:
    """Compares the shard's outcomes as of now. The service may run meanwhile, and the relay may be behind.

    Reads the topics' ends before it reads the store, so that all that is on Kafka before these ends must be stored.
    Raises TopicError, KafkaError and psycopg.Error.
    """
    partitions = topics.shard.partitions(count := await count_partitions(cluster, topics))
    position = await published(cluster, topics)
    begins, ends = await extents(cluster, (topics.outcomes, topics.dead_letters), count)
    findings = Findings()
    async with AsyncExitStack() as stack:
        streams = {}
        for topic in ends:
            starts = {number: begins[topic][number] for number in partitions}
            streams[topic] = await stack.enter_async_context(open_streams(cluster, topic, starts, ends[topic]))
        connection = stack.enter_context(connect_read_only(database_url))
        comparing = Published(topics, streams, begins, position.outcome_id, Disputes({}, [], []), findings)
        after = 0
        while rows := await asyncio.to_thread(outcomes_of_partitions, connection, partitions, after, _AT_ONCE):
            keys = await asyncio.to_thread(_erased, connection, rows)
            for row in rows:
                await comparing.compare(row, (), keys)
            after = rows[-1].outcome_id
        await comparing.look_for_surplus()
    return findings


def _erased(connection: psycopg.Connection[Any], rows: Sequence[StoredOutcome]) -> OrderKeys:
    """Returns the erased keys of the orders that these dead letters name."""
    named = {
        row.key.decode(errors="ignore").replace("\0", "") for row in rows if row.kind is OutcomeKind.DEAD and row.key
    }
    found = connection.execute(
        "SELECT order_id, number FROM order_keys WHERE order_id = ANY(%s) AND wrapped IS NULL", (list(named),)
    )
    return OrderKeys(dict.fromkeys(found.fetchall()))
