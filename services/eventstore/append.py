"""Appends a batch: events, outcomes and stored positions in one PostgreSQL transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
from eventsourcing.postgres import PostgresApplicationRecorder
from psycopg import Cursor
from psycopg.rows import DictRow
from psycopg.types.string import BytesBinaryDumper

from services.fault_points import point
from services.judging.outcomes import JudgedOutcome, ParkedCommand
from services.retention.months import MonthBegan

from .event_codec import Sealing, Stored
from .parking import ParkingChanged, change_parking

_EVENT_COLUMNS = ("originator_id", "originator_version", "topic", "state", "notification_id")
_EVENT_TYPES = ("text", "int8", "text", "bytea", "int8")


_OUTCOME_COLUMNS = (
    "outcome_id, partition, record_offset, kind, order_id, command_id, digest, source, last_event_id, key, message, "
    "headers, traceparent, month"
)
_OUTCOME_TYPES = (
    "int8", "int4", "int8", "text", "text", "text", "bytea", "text", "int8", "bytea", "bytea", "bytea",
    "text", "date",
)  # fmt: skip


@dataclass
class Batch:
    """What one transaction stores, apart from the events."""

    positions: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By partition: the stored position that is expected, and the new one."""
    outcomes: list[JudgedOutcome] = field(default_factory=list)
    """In the order of judging. The events are in the same order: those of the first outcome come first."""
    parking_version: int | None = None
    """The version of the parking with which the batch was judged; None skips the check."""
    parked: list[ParkedCommand] = field(default_factory=list)
    """The commands to park."""
    freed: list[tuple[int, int]] = field(default_factory=list)
    """Partition and offset of the parked commands that were judged now."""
    sealing: Sealing | None = None
    """What sealed the events. The keys that it made are stored, and those that it erased are destroyed."""
    month: date | None = None
    """The newest month when the batch was judged; None skips the check. Its index finds command ids used before."""


def is_refused_data(error: BaseException) -> bool:
    """Whether PostgreSQL or its client refused a value, and would refuse it again.

    False if the cause is a statement, a missing right, a table, a connection or a disk: then it refuses any value.
    """
    causes = (error, error.__cause__)
    return isinstance(error, UnicodeError | OverflowError) or any(
        isinstance(cause, psycopg.DataError | psycopg.errors.ProgramLimitExceeded) for cause in causes
    )


class OrderRecorder(PostgresApplicationRecorder):
    """The library's recorder, which also stores outcomes and positions, and writes with COPY.

    The methods that read (`select_events`, `select_notifications`, `subscribe`) are the library's own.
    """

    def insert_events(self, stored_events: Sequence[Stored], **kwargs: Any) -> Sequence[int] | None:
        """Appends events and their batch, given as `batch`, in one transaction. Returns the events' numbers.

        Raises the library's IntegrityError if an order already has an event with that sequence, or if a command id was
        used before; ParkingChanged if orders were parked or freed meanwhile; MonthBegan if a month has begun
        meanwhile; the library's InternalError or OperationalError otherwise. Nothing was written then, except that a
        lost connection may have committed: the stored positions tell. Never retries.
        """
        batch: Batch = kwargs.get("batch") or Batch()
        with self.datastore.transaction(commit=True) as cursor:
            cursor.adapters.register_dumper(bytes, BytesBinaryDumper)  # COPY would use a slower one
            _advance(cursor, batch.positions)
            last_event_id, last_outcome_id, month = _begin(cursor, batch)
            change_parking(cursor, batch.parked, batch.freed)
            self._copy_events(cursor, stored_events, last_event_id)
            if batch.sealing is not None:
                _change_keys(cursor, batch.sealing)
            _copy_outcomes(cursor, batch.outcomes, last_event_id, last_outcome_id, month)
            point("commands.inserted")
        return range(last_event_id + 1, last_event_id + 1 + len(stored_events))

    def _copy_events(self, cursor: Cursor[DictRow], stored_events: Sequence[Stored], last_id: int) -> None:
        if not stored_events:
            return
        columns = ", ".join(_EVENT_COLUMNS)
        with cursor.copy(f"COPY {self.events_table_name} ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(_EVENT_TYPES)
            for notification_id, event in enumerate(stored_events, last_id + 1):
                copy.write_row(
                    (event.originator_id, event.originator_version, event.topic, event.state, notification_id)
                )


def _advance(cursor: Cursor[DictRow], positions: dict[int, tuple[int, int]]) -> None:
    if positions:
        expected, after = zip(*positions.values(), strict=True)
        cursor.execute(
            "SELECT advance_positions('commands', %s::int[], %s::bigint[], %s::bigint[])",
            (list(positions), list(expected), list(after)),
        )


def _begin(cursor: Cursor[DictRow], batch: Batch) -> tuple[int, int, date]:
    row = cursor.execute("SELECT *, append_month() AS month FROM begin_append()").fetchone()
    assert row is not None
    if batch.parking_version not in (None, row["parking_version"]):
        raise ParkingChanged
    if batch.month not in (None, row["month"]):
        raise MonthBegan
    return row["last_event_id"], row["last_outcome_id"], row["month"]


def _change_keys(cursor: Cursor[DictRow], sealing: Sealing) -> None:
    if made := sealing.made():
        with cursor.copy("COPY order_keys (order_id, number, master, wrapped) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(("text", "int4", "text", "bytea"))
            for row in made:
                copy.write_row(row)
    if sealing.erased:
        cursor.executemany(
            "UPDATE order_keys SET wrapped = NULL, master = '', erased_at = now() WHERE order_id = %s AND number = %s",
            sealing.erased,
        )
        cursor.execute("SELECT erase_plain_texts(%s)", ([order_id for order_id, _ in sealing.erased],))


def _copy_outcomes(
    cursor: Cursor[DictRow], rows: list[JudgedOutcome], last_event_id: int, last_outcome_id: int, month: date
) -> None:
    if not rows:
        return
    with cursor.copy(f"COPY outcomes ({_OUTCOME_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(_OUTCOME_TYPES)
        for outcome_id, row in enumerate(rows, last_outcome_id + 1):
            last_event_id += row.events
            copy.write_row(
                (
                    outcome_id,
                    row.partition,
                    row.record_offset,
                    row.kind,
                    row.order_id,
                    row.command_id,
                    row.digest,
                    row.source,
                    last_event_id,
                    row.key,
                    row.message,
                    row.headers,
                    row.traceparent,
                    month,
                )
            )
