"""Feeds a read model from the event store: batches, each in one transaction with its position.

Positions are the eventsourcing library's tracking, so that two processes with the same read model cannot apply an
event twice: the second one's tracking is refused and its transaction undone.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, cast

from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresFactory, PostgresTrackingRecorder
from psycopg import Cursor
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier

from services.faults import point
from services.store import OrderStore
from services.store.changes import Changes
from services.store.mapper import decode_event
from services.store.order_keys import WITHOUT_TEXTS
from services.telemetry import measures
from services.telemetry.health import progress

from .read_model import ReadModel

log = logging.getLogger(__name__)

_BATCH = 1000
_LONGEST_PAUSE_SECONDS = 30.0
_GATHER_SECONDS = 0.01  # a transaction for each event would cost more than people notice
CHANNEL = "read_models"
"""Where PostgreSQL notifies that a read model moved on; the payload is its name."""


class Projector:
    """Keeps one read model up to date, in the PostgreSQL schema `schema` (by default the one that is read)."""

    def __init__(self, store: OrderStore, read_model: ReadModel[Any], schema: str | None = None) -> None:
        self._store = store
        self.read_model = read_model
        self.schema = schema or read_model.name
        self._datastore = cast("PostgresFactory", store.factory).datastore
        self._tracking = PostgresTrackingRecorder(self._datastore, tracking_table_name="projection_tracking")

    def prepare(self) -> None:
        """Creates the tables where they are missing. Raises the library's PersistenceError."""
        code = self.read_model.code()
        with self._datastore.transaction(commit=True) as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('projections', 0))")
            cursor.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(self.schema)))
            self._search(cursor)
            self.read_model.create(cursor)
            cursor.execute("INSERT INTO read_models VALUES (%s, %s) ON CONFLICT (name) DO NOTHING", (self.schema, code))
            cursor.execute("SELECT code FROM read_models WHERE name = %s", (self.schema,))
            if (row := cursor.fetchone()) and row["code"] != code:
                log.warning("%s was built by other code; `resolution rebuild %s` builds it anew", *[self.schema] * 2)

    def position(self) -> int:
        """The notification id of the last event applied; 0 before the first."""
        return self._tracking.max_tracking_id(self.schema) or 0

    def catch_up(self, most: int = _BATCH) -> int:
        """Applies the next batch in one transaction with its position; returns how many events that was."""
        position = self._tracking.max_tracking_id(self.schema)
        notifications = self._store.recorder.select_notifications(position, most, inclusive_of_start=False)
        if not notifications:
            return 0
        point("projections.read")
        events = [decode_event(notification, WITHOUT_TEXTS) for notification in notifications]
        with self.transaction() as cursor:
            self._tracking._insert_tracking(cursor, Tracking(self.schema, notifications[-1].id))
            self.read_model.apply(cursor, events)
            cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self.schema))
            point("projections.applied")
        point("projections.committed")
        return len(events)

    @contextmanager
    def transaction(self) -> Iterator[Cursor[DictRow]]:
        """A transaction on the read model's tables. A rebuild that switches them waits for it, and it for that."""
        with self._datastore.transaction(commit=True) as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended(%s, 1))", (self.schema,))
            # The position goes with the rows: what a crash of the server takes away is applied again.
            cursor.execute("SET LOCAL synchronous_commit TO off")
            self._search(cursor)
            yield cursor

    def _search(self, cursor: Cursor[DictRow]) -> None:
        cursor.execute(SQL("SET LOCAL search_path TO {}, public").format(Identifier(self.schema)))

    async def run(self, changes: Changes) -> None:
        """Catches up, then follows, for ever. An event that fails stops this read model alone, loudly, until it works.

        Raises psycopg.Error when the connection of `changes` is lost.
        """
        pause = 0.0
        while True:
            progress(self.schema)
            mark = changes.seen()
            try:
                # What came since the look, `changes` tells: no need to look again for nothing.
                caught_up = await asyncio.to_thread(self._apply_next) < _BATCH
                pause = 0.0
            except Exception:
                pause = min(max(0.5, pause * 2), _LONGEST_PAUSE_SECONDS)
                measures.stands_still(self.schema)
                log.exception(
                    "read model %s stands still; trying again in %.1f s",
                    self.schema,
                    pause,
                    extra={"read_model": self.schema},
                )
                await asyncio.sleep(pause)
                continue
            if caught_up:
                await changes.after(mark)
                await asyncio.sleep(_GATHER_SECONDS)

    def _apply_next(self) -> int:
        started = perf_counter()
        events = self.catch_up()
        if events:
            measures.applied(self.schema, events, perf_counter() - started)
        return events
