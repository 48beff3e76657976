"""Feeds read models from the event store: batches, each in one transaction with the positions of those it was for.

A transaction holds its positions from its first statement on, and leaves out those that another one holds. So two
processes with the same read models cannot apply an event twice, and none waits for the other.
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
"""Where PostgreSQL notifies that a read model moved on; the payload is its name."""

# What a crash of the server takes away is applied again, since the position goes with the rows: no need to wait for the
# disk.
_TAKE: LiteralString = (
    "SELECT application_name AS name, notification_id AS position, set_config('synchronous_commit', 'off', true) "
    "FROM projection_tracking WHERE application_name = ANY(%s) FOR UPDATE SKIP LOCKED"
)
_MOVE: LiteralString = (
    "WITH moved AS (UPDATE projection_tracking SET notification_id = %s WHERE application_name = ANY(%s) "
    "RETURNING application_name) SELECT pg_notify(%s, application_name) FROM moved"
)
_NO_END = 2**63 - 1


class Projector:
    """One read model in the PostgreSQL schema `schema` (by default the one that is read)."""

    def __init__(self, store: OrderStore, read_model: ReadModel[Any], schema: str | None = None) -> None:
        self.read_model = read_model
        self.schema = schema or read_model.name
        self.datastore = cast("PostgresFactory", store.factory).datastore

    def prepare(self) -> None:
        """Creates the tables where they are missing. Raises the library's PersistenceError."""
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
                log.warning("%s was built by another version; `resolution rebuild %s` renews it", *[self.schema] * 2)

    def position(self) -> int:
        """The notification id of the last event applied; 0 before the first."""
        with self.datastore.transaction(commit=False) as cursor:
            query = "SELECT notification_id FROM projection_tracking WHERE application_name = %s"
            return fetch_value(cursor.connection, query, [self.schema]) or 0

    def catch_up(self, most: int = BATCH) -> int:
        """Applies the next batch; returns how many events that was. See the function of this name."""
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
    """Applies the next batch to each of these, of one store, in one transaction with their positions.

    Returns how many events that was, by schema, where there were any. One that another transaction has in hand is left
    out: by another process, or by a rebuild that switches its tables. Those that are not as far as the furthest get
    batches of their own, up to where that one is by then, so that they go on together. Raises the library's
    PersistenceError, MapperDeserialisationError for an event that cannot be read, and what a handler fails with.
    """
    applied: dict[str, int] = {}
    with projectors[0].datastore.transaction(commit=True) as cursor:
        end = _NO_END
        for position, those in _take(cursor, projectors):
            rows = events_between(cursor.connection, position, end, most)
            end = min(end, rows[-1].notification_id if rows else position)
            if not rows:
                continue
            point("projections.read")
            events = [decode_event(row, WITHOUT_TEXTS) for row in rows]
            for projector in those:
                projector.apply(cursor, events)
                applied[projector.schema] = len(events)
            cursor.execute(_MOVE, (rows[-1].notification_id, [projector.schema for projector in those], CHANNEL))
            point("projections.applied")
    if applied:
        point("projections.committed")
    return applied


def _take(cursor: Cursor[DictRow], projectors: Sequence[Projector]) -> list[tuple[int, list[Projector]]]:
    """Those that no other transaction holds, by position, the furthest first. Holds them until the transaction ends."""
    by_name = {projector.schema: projector for projector in projectors}
    taken: defaultdict[int, list[Projector]] = defaultdict(list)
    for row in cursor.execute(_TAKE, (list(by_name),)):
        taken[row["position"]].append(by_name[row["name"]])
    return sorted(taken.items(), reverse=True)
