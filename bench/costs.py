"""Measures what a command costs: processor time in each process, bytes in each table and on each topic, and WAL.

WAL depends on the size of the store. After one of PostgreSQL's checkpoints, the first change of a page logs the whole
page, and in a large index with scattered order ids nearly every row changes another page.

Plan capacity with processor time, which depends less than elapsed time on what else the machine does.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench import growth
from bench.engine import backlog, running
from bench.processor_time import ProcessorTime, microseconds_each
from projections import READ_MODELS
from services.kafka.relay_position import published
from services.kafka.topics import DEFAULT_PARTITIONS, Topics
from services.settings import Settings

Costs = dict[str, Any]


async def per_command(settings: Settings, commands: int) -> Costs:
    """Runs one role after another on a full commands topic. Returns the costs by role, table and topic."""
    with psycopg.connect(settings.database, autocommit=True) as connection:
        processors = ProcessorTime(settings, connection)
        wal = _wal(connection)
        steps: dict[str, Callable[[], Awaitable[int]]] = {
            "commands": lambda: _one(connection, "SELECT coalesce(max(outcome_id), 0) FROM outcomes"),
            "relay": lambda: _count_outcomes(settings),
            "timer": lambda: _one(connection, _READ_BY_TIMER),
            "projections": lambda: _one(connection, _APPLIED, list(READ_MODELS)),
        }
        cpu, logged = {}, {}
        for role, done in steps.items():
            of = commands if role in ("commands", "relay") else await _end(settings, connection, role)
            cpu[role] = await _of_role(settings, processors, role, done, of, commands)
            logged[role], wal = (_wal(connection) - wal) / commands, _wal(connection)
        return {
            "cpu_us": cpu,
            "wal_bytes": logged,
            "table_bytes": {name: size / commands for name, size in tables(connection)},
            "topic_bytes": {name: size / commands for name, size in (await _topics(settings)).items()},
            "events": await _one(connection, "SELECT max(notification_id) FROM order_events") / commands,
        }


async def wal_of_large_store(settings: Settings, commands: int, events: int) -> Costs:
    """Returns bytes of WAL per command of the commands role alone, in a store that has `events` of other orders."""
    growth.fill(settings.database, events, "md5(((n - 1) / 10)::text)")
    with psycopg.connect(settings.database, autocommit=True) as connection:
        before = _wal(connection)
        await backlog(settings, commands, already=events)
        return {"wal_bytes": (_wal(connection) - before) / commands, "events": events}


_READ_BY_TIMER = "SELECT coalesce(sum(next_offset), 0)::bigint FROM positions WHERE consumer = 'timer'"
_APPLIED = (
    "SELECT CASE WHEN to_regclass('projection_tracking') IS NULL THEN 0 ELSE (SELECT coalesce(min(n), 0) FROM "
    "(SELECT (SELECT max(notification_id) FROM projection_tracking WHERE application_name = name) AS n "
    "FROM unnest(%s::text[]) AS name) AS each) END"
)


async def _of_role(
    settings: Settings, processors: ProcessorTime, role: str, done: Callable[[], Awaitable[int]], of: int, commands: int
) -> dict[str, float]:
    """Measures from when the role works until it has done everything, per command that was left at the start."""
    async with running(settings, role) as supervisor:
        await supervisor.ready()
        pid = supervisor.pid(role)
        assert pid is not None
        before, at_first = processors.used(role=pid), await done()
        while await done() < of:  # noqa: ASYNC110 (the servers have to be asked)
            await asyncio.sleep(0.05)
        return microseconds_each(before, processors.used(role=pid), commands * (of - at_first) / of)


async def _end(settings: Settings, connection: psycopg.Connection[Any], role: str) -> int:
    if role == "projections":
        return await _one(connection, "SELECT max(notification_id) FROM order_events")
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka, isolation_level="read_committed")
    await consumer.start()
    try:
        topic = Topics(settings.topic_prefix).events
        ends = await consumer.end_offsets([TopicPartition(topic, n) for n in range(DEFAULT_PARTITIONS)])
        return int(sum(ends.values()) - len(ends))  # each partition ends with a transaction marker
    finally:
        await consumer.stop()


async def _count_outcomes(settings: Settings) -> int:
    return (await published(settings.cluster, Topics(settings.topic_prefix))).outcome_id


async def _one(connection: psycopg.Connection[Any], query: str, *parameters: Any) -> int:
    row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return int(row[0] or 0)


def _wal(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])


def tables(connection: psycopg.Connection[Any]) -> list[tuple[str, int]]:
    """Returns the bytes of tables with their indexes. Adds up the tables of a read model."""
    return connection.execute(
        "SELECT CASE WHEN schemaname = 'public' THEN relname ELSE schemaname END, "
        "sum(pg_total_relation_size(relid))::bigint FROM pg_stat_user_tables GROUP BY 1 "
        "HAVING sum(pg_total_relation_size(relid)) > 1000000 ORDER BY 2 DESC"
    ).fetchall()


async def _topics(settings: Settings) -> Mapping[str, int]:
    """Returns the bytes of keys, values and headers. Kafka adds about ten bytes per record and does not compress."""
    topics, sizes = Topics(settings.topic_prefix), defaultdict[str, int](int)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        for name, topic in (("commands", topics.commands), ("events", topics.events), ("outcomes", topics.outcomes)):
            everywhere = [TopicPartition(topic, n) for n in range(DEFAULT_PARTITIONS)]
            consumer.assign(everywhere)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(everywhere)
            while any([await consumer.position(where) < ends[where] for where in everywhere]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    sizes[name] += sum(map(_size, records))
        return sizes
    finally:
        await consumer.stop()


def _size(record: Any) -> int:
    return len(record.key or b"") + len(record.value or b"") + sum(len(k) + len(v or b"") for k, v in record.headers)
