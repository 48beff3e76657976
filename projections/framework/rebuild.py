"""Builds a read model anew beside the live one, compares the two, and switches in one transaction.

The new tables are in the schema `NAME_new`, with a position of their own, so that a rebuild that was stopped goes on
where it was. The switch renames schemas: readers see the old rows until it commits, and the new ones after.
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

from .projector import Projector, built_by

_BATCH = 5000
_NEAR = 1000
"""So few events behind, the rest is done while the live one waits."""
_SHOWN = 20
_WAIT_SECONDS = 0.01


class RebuildError(Exception):
    """A rebuild that cannot be done: a sentence that says what to do instead."""


@dataclass
class Difference:
    """How the rows of a table differ; `keys` are some of the rows, without their content (it may be confidential)."""

    table: str
    only_in_old: int
    only_in_new: int
    keys: list[str] = field(default_factory=list)


@dataclass
class Rebuilt:
    """What came of it. `same_version`: whether old and new should be the same, row by row."""

    name: str
    events: int
    same_version: bool
    differences: list[Difference]


class Rebuild:
    """One rebuild of one read model. Raises RebuildError for a name that is none, or an old build still there."""

    def __init__(self, store: OrderStore, name: str) -> None:
        if name not in READ_MODELS:
            raise RebuildError(f"There is no read model {name}; there are {', '.join(READ_MODELS)}.")
        self._store = store
        self._datastore = cast("PostgresFactory", store.factory).datastore
        self._live = Projector(store, READ_MODELS[name]())
        self._new = Projector(store, READ_MODELS[name](), schema=f"{name}_new")
        self._name = name

    def run(self, progress: Callable[[int, int], None]) -> Rebuilt:
        """Fills, compares, switches. `progress` is told how many events are applied, and of how many.

        Raises RebuildError while another process builds the same one.
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
                raise RebuildError(f"Another rebuild of {self._name} is at work; wait until it has ended.")
            yield

    def _begin(self) -> None:
        self._live.prepare()
        with self._datastore.transaction(commit=True) as cursor:
            if _exists(cursor, f"{self._name}_old"):
                raise RebuildError(
                    f"The tables from before the last rebuild are still there; look at them in the schema "
                    f"{self._name}_old, then `resolution rebuild {self._name} --drop-old`."
                )
            if built_by(cursor.connection, self._new.schema) not in (None, str(self._new.read_model.version)):
                self._forget(cursor, self._new.schema)  # what another version began is of no use
        self._new.prepare()

    def drop_old(self) -> bool:
        """Deletes the tables from before the last rebuild; returns whether there were any."""
        with self._alone(), self._datastore.transaction(commit=True) as cursor:
            found = _exists(cursor, f"{self._name}_old")
            self._forget(cursor, f"{self._name}_old")
        return found

    def _fill(self, progress: Callable[[int, int], None]) -> None:
        """Brings the new one near the end, and the live one at least as far as that."""
        self._fill_new(progress)
        while self._live.position() < self._new.position():  # its role does not run, or has not come so far
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
        """The live one stands still from here to the commit; its readers do not."""
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
        found = [difference for difference in differences if difference.only_in_old or difference.only_in_new]
        return Rebuilt(self._name, events, same_version, found)

    def _hold(self, cursor: Cursor[DictRow]) -> int:
        """The live one's position, which nobody moves until the transaction ends."""
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
    """What names a row: its first column, or the first two."""
    values = [str(value) for name, value in row.items() if name in ("order_id", "role", "user_id", "day", "kind")]
    return " ".join(values)
