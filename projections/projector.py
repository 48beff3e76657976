"""Feeds a read model from the event store: batches, each in one transaction with its position.

Positions are the eventsourcing library's tracking, so that two processes with the same read model cannot apply an
event twice: the second one's tracking is refused and its transaction undone.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol, cast

from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresFactory, PostgresTrackingRecorder
from psycopg import Cursor
from psycopg.rows import DictRow

from services.faults import point
from services.orders.events import Event
from services.store import OrderStore
from services.store.changes import Changes

log = logging.getLogger(__name__)

_BATCH = 1000
_LONGEST_PAUSE_SECONDS = 30.0
_GATHER_SECONDS = 0.01  # a transaction for each event would cost more than people notice


class ReadModel(Protocol):
    """What a read model is made of: a name, its tables, and what a run of events does to them."""

    name: str
    schema: str
    """SQL that creates the tables where they are missing."""

    def apply(self, cursor: Cursor[DictRow], events: Sequence[Event]) -> None:
        """Applies events, in the order of the store. Commits nothing."""
        ...


class Projector:
    """Keeps one read model up to date."""

    def __init__(self, store: OrderStore, read_model: ReadModel) -> None:
        self._store = store
        self._read_model = read_model
        self._datastore = cast("PostgresFactory", store.factory).datastore
        self._tracking = PostgresTrackingRecorder(self._datastore, tracking_table_name="projection_tracking")

    def prepare(self) -> None:
        """Creates the tables where they are missing. Raises the library's PersistenceError."""
        with self._datastore.transaction(commit=True) as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('projections', 0))")
            cursor.execute(self._read_model.schema)
        self._tracking.create_table()

    def catch_up(self) -> int:
        """Applies the next batch in one transaction with its position; returns how many events that was."""
        position = self._tracking.max_tracking_id(self._read_model.name)
        notifications = self._store.recorder.select_notifications(position, _BATCH, inclusive_of_start=False)
        if not notifications:
            return 0
        point("projections.read")
        events = [cast("Event", self._store.mapper.to_domain_event(notification)) for notification in notifications]
        with self._datastore.transaction(commit=True) as cursor:
            self._tracking._insert_tracking(cursor, Tracking(self._read_model.name, notifications[-1].id))
            self._read_model.apply(cursor, events)
            point("projections.applied")
        point("projections.committed")
        return len(events)

    async def run(self, changes: Changes) -> None:
        """Catches up, then follows, for ever. An event that fails stops this read model alone, loudly, until it works.

        Raises psycopg.Error when the connection of `changes` is lost.
        """
        pause = 0.0
        while True:
            mark = changes.seen()
            try:
                caught_up = await asyncio.to_thread(self.catch_up) == 0
                pause = 0.0
            except Exception:
                pause = min(max(0.5, pause * 2), _LONGEST_PAUSE_SECONDS)
                log.exception("read model %s stands still; trying again in %.1f s", self._read_model.name, pause)
                await asyncio.sleep(pause)
                continue
            if caught_up:
                await changes.after(mark)
                await asyncio.sleep(_GATHER_SECONDS)
