"""Builds a read model again beside the live one, compares the two, and switches in one transaction.

The new tables are in the schema `NAME_new` and have their own position, so that the next rebuild continues one that was
stopped. The switch renames schemas: readers see the old rows until it commits, and then the new ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import sleep
from typing import cast

from eventsourcing.postgres import PostgresFactory
from psycopg import Cursor
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier

from projections import READ_MODELS
from services.eventstore.application import OrderStore
from services.eventstore.database import fetch_value, hold_lock
from services.failures import Failure

from .projector import Projector, built_by

_BATCH = 5000
_NEAR = 1000
"""When fewer events than this are left, they are applied while the live read model waits."""
_SHOWN = 20
_WAIT_SECONDS = 0.01


class RebuildError(Failure):
    """A rebuild is not possible. The message says why and what to do instead."""


@dataclass
class Difference:
    """How the rows of a table differ."""

    table: str
    """The table's name."""
    only_in_old: int
    """The number of rows that only the old table has."""
    only_in_new: int
    """The number of rows that only the new table has."""
    keys: list[str] = field(default_factory=list)
    """The keys of some of these rows, without their content, which may be confidential."""


@dataclass
class Rebuilt:
    """The result of a rebuild."""

    name: str
    """The read model's name."""
    events: int
    """The number of the last event in it."""
    same_version: bool
    """Whether the same version had built the old rows, so that old and new rows should be the same."""
    differences: list[Difference]
    """The tables that differ."""


class Rebuild:
    """One rebuild of one read model. Raises RebuildError for an unknown name."""

    def __init__(self, store: OrderStore, name: str) -> None:
        if name not in READ_MODELS:
            raise RebuildError(f"There is no read model {name}; there are {', '.join(READ_MODELS)}.")
        self._store = store
        self._datastore = cast("PostgresFactory", store.factory).datastore
        self._live = Projector(store, READ_MODELS[name]())
        self._new = Projector(store, READ_MODELS[name](), schema=f"{name}_new")
        self._name = name

    def run(self, progress: Callable[[int, int], None]) -> Rebuilt:
        """Fills the new tables, compares them, and switches. Calls `progress` with the events applied and their total.

        Raises RebuildError while another process rebuilds the read model, or if tables of the last rebuild still exist.
        """
        with self._alone():
            self._begin()
            self._fill(progress)
            return self._switch()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        name = f"rebuild {self._name}"
        with self._datastore.transaction() as cursor:
            if not hold_lock(cursor, "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0)) AS held", (name,)):
                raise RebuildError(f"Another rebuild of {self._name} is running; wait until it has ended.")
            yield

    def _begin(self) -> None:
        self._live.prepare()
        with self._datastore.transaction(commit=True) as cursor:
            if _exists(cursor, f"{self._name}_old"):
                raise RebuildError(
                    f"The tables from before the last rebuild still exist in the schema {self._name}_old. Check them, "
                    f"then delete them with `resolution rebuild {self._name} --drop-old`."
                )
            if built_by(cursor.connection, self._new.schema) not in (None, str(self._new.read_model.version)):
                self._forget(cursor, self._new.schema)  # another version began it, so its rows are useless
        self._new.prepare()

    def drop_old(self) -> bool:
        """Deletes the tables from before the last rebuild. Returns whether there were any."""
        with self._alone(), self._datastore.transaction(commit=True) as cursor:
            existed = _exists(cursor, f"{self._name}_old")
            self._forget(cursor, f"{self._name}_old")
        return existed

    def _fill(self, progress: Callable[[int, int], None]) -> None:
        """Brings the new read model near the end, and the live one at least to the same position."""
        self._fill_new(progress)
        while self._live.position() < self._new.position():  # the projections role does not run, or is behind
            if not self._live.catch_up():
                sleep(_WAIT_SECONDS)

    def _fill_new(self, progress: Callable[[int, int], None]) -> None:
        done = self._new.position()
        while True:
            last = self._store.recorder.max_notification_id() or 0
            progress(done, last)
            if last - done < _NEAR:
                return
            self._new.catch_up(_BATCH)
            done = self._new.position()

    def _switch(self) -> Rebuilt:
        """Compares and switches. Meanwhile the live read model gets no events, but readers do not wait."""
        with self._datastore.transaction(commit=True) as cursor:
            events = self._hold(cursor)
            while (behind := events - self._new.position()) > 0:
                self._new.catch_up(min(behind, _BATCH))
            same_version = built_by(cursor.connection, self._name) == built_by(cursor.connection, self._new.schema)
            differences = [self._compare(cursor, table) for table in self._new.read_model.compared]
            for old, new in ((self._name, f"{self._name}_old"), (self._new.schema, self._name)):
                cursor.execute(SQL("ALTER SCHEMA {} RENAME TO {}").format(Identifier(old), Identifier(new)))
                cursor.execute("UPDATE read_models SET name = %s WHERE name = %s", (new, old))
                cursor.execute("DELETE FROM projection_tracking WHERE application_name = %s", (new,))
                cursor.execute(
                    "UPDATE projection_tracking SET application_name = %s WHERE application_name = %s", (new, old)
                )
        differing = [difference for difference in differences if difference.only_in_old or difference.only_in_new]
        return Rebuilt(self._name, events, same_version, differing)

    def _hold(self, cursor: Cursor[DictRow]) -> int:
        """Locks and returns the live read model's position, so that nobody moves it until the transaction ends."""
        query = "SELECT notification_id FROM projection_tracking WHERE application_name = %s FOR UPDATE"
        return int(fetch_value(cursor.connection, query, (self._name,)))

    def _compare(self, cursor: Cursor[DictRow], table: str) -> Difference:
        old, new = Identifier(self._name, table), Identifier(self._new.schema, table)
        counts = []
        keys: set[str] = set()
        for one, other in ((old, new), (new, old)):
            cursor.execute(
                SQL("CREATE TEMPORARY TABLE different ON COMMIT DROP AS TABLE {} EXCEPT TABLE {}").format(one, other)
            )
            counts.append(fetch_value(cursor.connection, "SELECT count(*) FROM different"))
            cursor.execute("SELECT * FROM different LIMIT %s", (_SHOWN,))
            keys |= {_key(row) for row in cursor}
            cursor.execute("DROP TABLE different")
        only_in_old, only_in_new = counts
        return Difference(table, only_in_old, only_in_new, sorted(keys)[:_SHOWN])

    def _forget(self, cursor: Cursor[DictRow], schema: str) -> None:
        cursor.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))
        cursor.execute("DELETE FROM read_models WHERE name = %s", (schema,))
        cursor.execute("DELETE FROM projection_tracking WHERE application_name = %s", (schema,))


def _exists(cursor: Cursor[DictRow], schema: str) -> bool:
    return fetch_value(cursor.connection, "SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)) is not None


def _key(row: DictRow) -> str:
    """Returns the values that identify a row."""
    values = [str(value) for name, value in row.items() if name in ("order_id", "role", "user_id", "day", "kind")]
    return " ".join(values)
