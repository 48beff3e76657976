"""The raw ceiling: poll, decode, COPY the same rows, commit. It judges nothing, uses no library and keeps no state."""

import asyncio
import time
from typing import Any

import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from services.kafka.topics import DEFAULT_PARTITIONS

_PIECE = 4000
_EVENTS = "originator_id, originator_version, topic, state, notification_id"
_OUTCOMES = (
    "outcome_id, partition, record_offset, kind, order_id, command_id, digest, source, last_event_id, key, message, "
    "headers"
)
_EVENT_TYPES = ("text", "int8", "text", "bytea", "int8")
_OUTCOME_TYPES = (
    "int8", "int4", "int8", "text", "text", "text", "bytea", "text", "int8", "bytea", "bytea", "bytea",
)  # fmt: skip
_decode = msgspec.json.Decoder().decode
Rows = list[tuple[Any, ...]]


def rows_of(database: str) -> tuple[Rows, Rows]:
    """Returns the events and outcomes that the service wrote, in the order of their ids."""
    with psycopg.connect(database) as connection:
        events = connection.execute(f"SELECT {_EVENTS} FROM order_events ORDER BY notification_id").fetchall()
        return events, connection.execute(f"SELECT {_OUTCOMES} FROM outcomes ORDER BY outcome_id").fetchall()


async def backlog(kafka: str, topic: str, database: str, rows: tuple[Rows, Rows]) -> float:
    """Returns commands per second until the last row is committed. Decodes a batch while the last one commits."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, enable_auto_commit=False, max_partition_fetch_bytes=4 * 1024 * 1024
    )
    await consumer.start()
    writer = _Writer(database, *rows)
    try:
        partitions = [TopicPartition(topic, n) for n in range(DEFAULT_PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        wanted, done, commit = len(rows[1]), 0, None
        started = time.perf_counter()
        while done < wanted:
            batches = await consumer.getmany(timeout_ms=1000, max_records=_PIECE)
            piece = [_decode(record.value or b"") for batch in batches.values() for record in batch]
            if commit is not None:
                await commit
            commit = asyncio.ensure_future(asyncio.to_thread(writer.write, len(piece)))
            done += len(piece)
        assert commit is not None
        await commit
        return wanted / (time.perf_counter() - started)
    finally:
        await consumer.stop()
        writer.close()


class _Writer:
    """Writes the next rows, in one transaction with a position for each partition."""

    def __init__(self, database: str, events: Rows, outcomes: Rows) -> None:
        self._connection = psycopg.connect(database, autocommit=True)
        self._connection.execute("INSERT INTO positions SELECT 'ceiling', n, 0 FROM generate_series(0, 7) AS n")
        self._events, self._outcomes = events, outcomes
        self._next_event = self._next_outcome = 0

    def write(self, commands: int) -> None:
        outcomes = self._outcomes[self._next_outcome : self._next_outcome + commands]
        last_event = outcomes[-1][8]
        events = self._events[self._next_event : last_event]
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute("UPDATE positions SET next_offset = next_offset + 1 WHERE consumer = 'ceiling'")
            for table, columns, types, rows in (
                ("order_events", _EVENTS, _EVENT_TYPES, events),
                ("outcomes", _OUTCOMES, _OUTCOME_TYPES, outcomes),
            ):
                with cursor.copy(f"COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(types)
                    for row in rows:
                        copy.write_row(row)
        self._next_event, self._next_outcome = last_event, self._next_outcome + commands

    def close(self) -> None:
        self._connection.close()
