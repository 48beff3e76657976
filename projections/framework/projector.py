"""Applies events to read models, in batches. One transaction has a batch and the new positions of the read models.

A transaction locks the positions with its first statement, and leaves out read models whose positions another
transaction has locked. So two processes with the same read models cannot apply an event twice, and neither waits.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, LiteralString, cast

from eventsourcing.postgres import PostgresFactory
from psycopg import Connection, Cursor
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier

from services.eventstore.application import OrderStore
from services.eventstore.database import fetch_value, set_search_path
from services.eventstore.event_codec import decode_event
from services.eventstore.read_events import events_between
from services.fault_points import point
from services.sealing.order_keys import WITHOUT_TEXTS

from .read_model import ReadModel

log = logging.getLogger(__name__)

BATCH = 1000
CHANNEL = "read_models"
"""The channel on which PostgreSQL notifies that a read model has changed. The payload is its name."""

# Commits need not wait for the disk. If the server crashes, rows and position are lost together and applied again.
_LOCK: LiteralString = (
    "SELECT application_name AS name, notification_id AS position, set_config('synchronous_commit', 'off', true) "
    "FROM projection_tracking WHERE application_name = ANY(%s) FOR UPDATE SKIP LOCKED"
)
_MOVE: LiteralString = (
    "WITH moved AS (UPDATE projection_tracking SET notification_id = %s WHERE application_name = ANY(%s) "
    "RETURNING application_name) SELECT pg_notify(%s, application_name) FROM moved"
)
_NO_END = 2**63 - 1


class Projector:
    """Applies events to one read model in the PostgreSQL schema `schema`, by default the live one."""

    def __init__(self, store: OrderStore, read_model: ReadModel[Any], schema: str | None = None) -> None:
        self.read_model = read_model
        self.schema = schema or read_model.name
        self.datastore = cast("PostgresFactory", store.factory).datastore

    def prepare(self) -> None:
        """Creates missing tables. Raises the library's PersistenceError."""
        version = str(self.read_model.version)
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('projections', 0))")
            cursor.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(self.schema)))
            self._search(cursor)
            self.read_model.create(cursor)
            cursor.execute("INSERT INTO projection_tracking VALUES (%s, 0) ON CONFLICT DO NOTHING", (self.schema,))
            cursor.execute(
                "INSERT INTO read_models VALUES (%s, %s) ON CONFLICT (name) DO NOTHING", (self.schema, version)
            )
            if built_by(cursor.connection, self.schema) != version:
                log.warning("another version built the read model %s; run `resolution rebuild %s`", *[self.schema] * 2)

    def position(self) -> int:
        """Returns the event number of the last applied event, 0 before the first."""
        with self.datastore.transaction(commit=False) as cursor:
            query = "SELECT notification_id FROM projection_tracking WHERE application_name = %s"
            return fetch_value(cursor.connection, query, [self.schema]) or 0

    def catch_up(self, most: int = BATCH) -> int:
        """Applies the next batch. Returns its number of events. See the function of this name."""
        return catch_up([self], most).get(self.schema, 0)

    def apply(self, cursor: Cursor[DictRow], events: Sequence[Any]) -> None:
        """Applies events, in the order of the store. Commits nothing."""
        self._search(cursor)
        self.read_model.apply(cursor, events)

    def _search(self, cursor: Cursor[DictRow]) -> None:
        set_search_path(cursor, self.schema)


def built_by(connection: Connection[Any], schema: str) -> str | None:
    """Returns the version that built a read model, or None if nothing built it. Raises psycopg.Error."""
    code: str | None = fetch_value(connection, "SELECT code FROM read_models WHERE name = %s", (schema,))
    return code


def catch_up(projectors: Sequence[Projector], most: int = BATCH) -> dict[str, int]:
    """Applies the next batch to read models of one store, in one transaction with their positions.

    Returns the number of events by schema, without schemas that had none. Leaves out a read model that another
    transaction has locked: another process, or a rebuild that switches its tables. Read models that have fallen behind
    get batches of their own, up to the position of the most advanced one, so that all continue together. Raises the
    library's PersistenceError, MapperDeserialisationError for an event that cannot be read, and a handler's errors.
    """
    applied: dict[str, int] = {}
    with projectors[0].datastore.transaction(commit=True) as cursor:
        end = _NO_END
        for position, group in _lock(cursor, projectors):
            rows = events_between(cursor.connection, position, end, most)
            end = min(end, rows[-1].notification_id if rows else position)
            if not rows:
                continue
            point("projections.read")
            events = [decode_event(row, WITHOUT_TEXTS) for row in rows]
            for projector in group:
                projector.apply(cursor, events)
                applied[projector.schema] = len(events)
            cursor.execute(_MOVE, (rows[-1].notification_id, [projector.schema for projector in group], CHANNEL))
            point("projections.applied")
    if applied:
        point("projections.committed")
    return applied


def _lock(cursor: Cursor[DictRow], projectors: Sequence[Projector]) -> list[tuple[int, list[Projector]]]:
    """Locks the read models that no other transaction has locked. Returns them by position, highest first."""
    by_name = {projector.schema: projector for projector in projectors}
    locked: defaultdict[int, list[Projector]] = defaultdict(list)
    for row in cursor.execute(_LOCK, (list(by_name),)):
        locked[row["position"]].append(by_name[row["name"]])
    return sorted(locked.items(), reverse=True)
