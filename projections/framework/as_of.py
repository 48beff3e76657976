"""Builds all read models as they were at an instant, in separate PostgreSQL schemas. The live ones do not change.

An event counts if its business time is not later than the instant. Events are read order by order, because only within
an order do business times follow the order of the store. The schemas are filled as PREFIX_NAME_new and renamed together
at the end, so that nobody reads unfinished ones. A comment on each schema says that a replay made it, and as of when.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import takewhile
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg import Cursor
from psycopg.rows import DictRow, dict_row
from psycopg.sql import SQL, Identifier, Literal
from resolution_contracts.values import format_instant

from projections import READ_MODELS
from services.eventstore.database import connect, fetch_value, lock_held, set_search_path
from services.eventstore.event_codec import decode_event
from services.eventstore.read_events import all_histories
from services.failures import Failure
from services.orders.events import Event
from services.sealing.order_keys import WITHOUT_TEXTS

from .read_model import ReadModel

_MARK = "resolution replay: "
_ROWS_AT_ONCE = 1000


class AsOfError(Failure):
    """A replay is not possible. The message says why and what to do instead."""


class Replayed(msgspec.Struct):
    """What a replay built."""

    as_of: datetime
    """The business time up to which events count."""
    position: int
    """The number of the store's last event when the replay began."""
    events: int = 0
    """How many of the events up to `position` count."""
    orders: int = 0
    """How many orders have such events."""
    overdue: int = 0
    """Open disputes whose deadline had passed at `as_of`, because their auto-acceptance is not stored yet."""
    rows: dict[str, int] = {}
    """The number of rows by table, written as "read model.table"."""


class ReadModelsAsOf:
    """The schemas of one prefix, locked against other replays. See `hold`."""

    def __init__(self, connection: psycopg.Connection[DictRow], prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix
        self._models: list[ReadModel[Any]] = [model() for model in READ_MODELS.values()]

    @classmethod
    @contextmanager
    def hold(cls, database_url: str, prefix: str) -> Iterator["ReadModelsAsOf"]:
        """Locks the schemas of a prefix. Raises AsOfError while another replay uses them, and psycopg.Error."""
        with (
            lock_held(database_url, "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 2))", (prefix,)) as alone,
            connect(database_url, autocommit=True, row_factory=dict_row) as connection,
        ):
            if not alone:
                raise AsOfError(f"Another replay into the schemas {prefix}_… is running; wait until it has ended.")
            yield cls(connection, prefix)

    def fill(self, as_of: datetime, progress: Callable[[int, int], None]) -> Replayed:
        """Builds all read models under temporary names. Calls `progress` with the events read and their total.

        Raises AsOfError if schemas of this prefix exist or an order's history has a gap, psycopg.Error, and the
        library's MapperDeserialisationError for an event that this version cannot read.
        """
        self._make_room()
        last_event_id = fetch_value(self._connection, "SELECT coalesce(max(notification_id), 0) FROM order_events")
        replayed = Replayed(as_of, last_event_id)
        read = 0
        for orders in all_histories(self._connection, replayed.position):
            read += sum(map(len, orders.values()))
            self._take([[decode_event(row, WITHOUT_TEXTS) for row in rows] for rows in orders.values()], replayed)
            progress(read, replayed.position)
        self._finish(replayed)
        return replayed

    def keep(self) -> None:
        """Gives all schemas their final names, in one transaction. Raises psycopg.Error."""
        with self._connection.transaction():
            for model in self._models:
                names = Identifier(self._new(model)), Identifier(self.schema(model))
                self._connection.execute(SQL("ALTER SCHEMA {} RENAME TO {}").format(*names))

    def drop(self) -> list[str]:
        """Deletes the schemas, finished or not. Returns their names. Raises AsOfError if no replay made one of them."""
        with self._connection.transaction():
            existing = self._existing()
            for schema in existing:
                self._connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))
        return list(existing)

    def tables(self) -> Iterator[tuple[str, str, Iterator[DictRow]]]:
        """Yields read model, table and rows for each table, rows sorted by their key. Call `fill` before."""
        for model in self._models:
            for table in self._tables(model):
                yield model.name, table, self._rows(Identifier(self._new(model), table))

    def schema(self, model: ReadModel[Any]) -> str:
        """Returns the final name of a read model's schema."""
        return f"{self._prefix}_{model.name}"

    def _new(self, model: ReadModel[Any]) -> str:
        return f"{self.schema(model)}_new"

    # --- before ---

    def _make_room(self) -> None:
        with self._connection.transaction():
            for schema, comment in self._existing().items():
                if not schema.endswith("_new"):
                    raise AsOfError(
                        f"The schema {schema} exists already ({comment.removeprefix(_MARK)}). Choose another prefix, "
                        f"or delete all schemas of this one: resolution replay --drop {self._prefix}"
                    )
                self._connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))
            for model in self._models:
                self._connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(self._new(model))))
                self._comment(model, "not finished")
                with self._in_schema(model) as cursor:
                    model.create(cursor)

    def _existing(self) -> dict[str, str]:
        """Returns the existing schemas of this prefix with their comments. Raises AsOfError for any other's schema."""
        wanted = [name for model in self._models for name in (self.schema(model), self._new(model))]
        rows = self._connection.execute(
            "SELECT nspname, coalesce(obj_description(oid, 'pg_namespace'), '') AS comment FROM pg_namespace "
            "WHERE nspname = ANY(%s) ORDER BY nspname",
            (wanted,),
        )
        comments = {row["nspname"]: row["comment"] for row in rows}
        for schema, comment in comments.items():
            if not comment.startswith(_MARK):
                raise AsOfError(f"The schema {schema} was not made by a replay and stays. Choose another prefix.")
        return comments

    def _comment(self, model: ReadModel[Any], text: str) -> None:
        comment = SQL("COMMENT ON SCHEMA {} IS {}").format(Identifier(self._new(model)), Literal(_MARK + text))
        self._connection.execute(comment)

    # --- the events ---

    def _take(self, orders: list[list[Event]], replayed: Replayed) -> None:
        """Applies the events of some orders. Times ascend within an order, so its first events are those that count."""
        counted: list[Event] = []
        for history in orders:
            before = len(counted)
            counted += takewhile(lambda event: event.timestamp <= replayed.as_of, history)
            replayed.orders += len(counted) > before
        replayed.events += len(counted)
        if not counted:
            return
        with self._connection.transaction():
            self._connection.execute("SET LOCAL synchronous_commit TO off")  # a crash ends the replay anyway
            for model in self._models:
                with self._in_schema(model) as cursor:
                    _apply(model, cursor, counted)

    # --- after ---

    def _finish(self, replayed: Replayed) -> None:
        with self._connection.transaction():
            for model in self._models:
                with self._in_schema(model) as cursor:
                    model.pass_time(cursor, replayed.as_of)
                for table in self._tables(model):
                    replayed.rows[f"{model.name}.{table}"] = self._count(Identifier(self._new(model), table))
                at, position = format_instant(replayed.as_of), replayed.position
                self._comment(model, f"{model.name} as of {at}, from the events up to {position}")
            overview = Identifier(f"{self._prefix}_overview_new", "orders")
            replayed.overdue = self._count(overview, "respond_by <= %s", replayed.as_of)

    def _count(self, table: Identifier, where: LiteralString = "true", *values: Any) -> int:
        query = SQL("SELECT count(*) FROM {} WHERE ").format(table) + SQL(where)
        return int(fetch_value(self._connection, query, values))

    def _tables(self, model: ReadModel[Any]) -> list[str]:
        rows = self._connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (self._new(model),)
        )
        return [row["tablename"] for row in rows]

    def _rows(self, table: Identifier) -> Iterator[DictRow]:
        """Yields a table's rows from a server-side cursor, because a table may be larger than memory."""
        key = self._connection.execute(
            "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey) "
            "WHERE indisprimary AND indrelid = %s::regclass ORDER BY array_position(indkey::int2[], attnum)",
            (table.as_string(self._connection),),
        )
        columns = SQL(", ").join(Identifier(row["attname"]) for row in key)
        with self._connection.transaction(), self._connection.cursor("rows") as cursor:
            cursor.itersize = _ROWS_AT_ONCE
            cursor.execute(SQL("SELECT * FROM {} ORDER BY {}").format(table, columns))
            yield from cursor

    @contextmanager
    def _in_schema(self, model: ReadModel[Any]) -> Iterator[Cursor[DictRow]]:
        with self._connection.cursor() as cursor:
            set_search_path(cursor, self._new(model))
            yield cursor


def _apply(model: ReadModel[Any], cursor: Cursor[DictRow], events: list[Event]) -> None:
    try:
        model.apply(cursor, events)
    except ValueError as error:
        raise AsOfError(
            f"The stored events do not follow from each other: {error}. `resolution verify` checks all orders."
        ) from error
