"""Compares read models with a replay of the event store, in one PostgreSQL snapshot. Writes temporary tables only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventsourcing.persistence import MapperDeserialisationError
from psycopg import Cursor
from psycopg.rows import DictRow, dict_row
from psycopg.sql import SQL, Identifier

from projections import READ_MODELS
from projections.framework.read_model import Fact, ReadModel
from services.eventstore.database import connect, fetch_value, set_search_path
from services.eventstore.event_codec import decode_event
from services.eventstore.read_events import NumberedRow, all_histories
from services.sealing.order_keys import WITHOUT_TEXTS

from .findings import Findings


def verify_read_models(url: str, names: Sequence[str], findings: Findings, progress: Callable[[int], None]) -> None:
    """Compares each row of these read models with what their events give.

    Calls `progress` with how many more events were replayed. Raises psycopg.Error, and what a read model's handlers
    raise.
    """
    with connect(url, row_factory=dict_row) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with connection.cursor() as cursor:
            replays = [replay for name in names if (replay := _Replay.begin(cursor, READ_MODELS[name]())) is not None]
            if replays:
                _replay(cursor, replays, findings, progress)
                for replay in replays:
                    replay.finish(cursor, findings)
        connection.rollback()


def _replay(
    cursor: Cursor[DictRow], replays: Sequence["_Replay"], findings: Findings, progress: Callable[[int], None]
) -> None:
    for orders in all_histories(cursor.connection, max(replay.position for replay in replays)):
        for replay in replays:
            replay.orders(cursor, orders, findings)
        progress(sum(map(len, orders.values())))


class _Replay:
    """One read model, replayed up to its own position."""

    def __init__(self, model: ReadModel[Any], position: int) -> None:
        self._model = model
        self._rows = 0
        self.position = position

    @classmethod
    def begin(cls, cursor: Cursor[DictRow], model: ReadModel[Any]) -> "_Replay | None":
        """Returns the replay of a read model, or None if it was never built."""
        if fetch_value(cursor.connection, "SELECT to_regclass(%s)", (f"{model.name}.orders",)) is None:
            return None
        query = "SELECT coalesce(max(notification_id), 0) FROM projection_tracking WHERE application_name = %s"
        return cls(model, fetch_value(cursor.connection, query, (model.name,)))

    def orders(self, cursor: Cursor[DictRow], orders: Mapping[str, Sequence[NumberedRow]], findings: Findings) -> None:
        """Replays these orders and compares their rows."""
        columns = ["order_id", *self._model.columns, "document"]
        cursor.execute(
            SQL("SELECT {} FROM {} WHERE order_id = ANY(%s)").format(
                SQL(", ").join(map(Identifier, columns)), Identifier(self._model.name, "orders")
            ),
            (list(orders),),
            binary=True,
        )
        live = {row["order_id"]: tuple(row.values()) for row in cursor}
        facts: list[Fact] = []
        for order_id, history in orders.items():
            known = [row for row in history if row.notification_id <= self.position]
            if known:
                self._rows += 1
                findings.read_models += 1
                if self._replayed(known, facts) != live.get(order_id):
                    findings.differs(f"read model {self._model.name}: order {order_id} is not what its events give")
        if facts and len(self._model.compared) > 1:
            self._in_own_tables(cursor, facts)

    def _replayed(self, history: Sequence[NumberedRow], facts: list[Fact]) -> tuple[Any, ...] | None:
        """Returns the order's row and adds its facts to `facts`. Returns None if the history cannot be replayed."""
        try:
            documents, new = self._model.fold([decode_event(row, WITHOUT_TEXTS) for row in history])
        except (MapperDeserialisationError, ValueError, AssertionError):
            return None
        facts += new
        [row] = self._model.rows(documents)
        return row

    def _in_own_tables(self, cursor: Cursor[DictRow], facts: Sequence[Fact]) -> None:
        set_search_path(cursor, "pg_temp")
        if fetch_value(cursor.connection, "SELECT to_regclass(%s)", (f"pg_temp.{self._mark}",)) is None:
            cursor.execute("DROP TABLE IF EXISTS pg_temp.orders")
            self._model.create(cursor)
            cursor.execute(SQL("CREATE TEMPORARY TABLE {} ()").format(Identifier(self._mark)))
        self._model.tally(cursor, facts)
        set_search_path(cursor)

    @property
    def _mark(self) -> str:
        return f"made_{self._model.name}"

    def finish(self, cursor: Cursor[DictRow], findings: Findings) -> None:
        """Compares what is aggregated over orders, and looks for rows of orders that do not exist."""
        query = SQL("SELECT count(*) FROM {}").format(Identifier(self._model.name, "orders"))
        surplus = fetch_value(cursor.connection, query) - self._rows
        if surplus > 0:
            findings.differs(f"read model {self._model.name}: {surplus} rows belong to orders that do not exist")
        for table in self._model.compared:
            if table != "orders":
                self._compare(cursor, table, findings)

    def _compare(self, cursor: Cursor[DictRow], table: str, findings: Findings) -> None:
        live, replayed = Identifier(self._model.name, table), Identifier("pg_temp", table)
        if fetch_value(cursor.connection, "SELECT to_regclass(%s)", (f"pg_temp.{table}",)) is None:
            query = SQL("SELECT count(*) FROM {}").format(live)
        else:
            query = SQL(
                "SELECT count(*) FROM ((TABLE {0} EXCEPT TABLE {1}) UNION ALL (TABLE {1} EXCEPT TABLE {0})) "
                "AS different"
            ).format(live, replayed)
        if different := fetch_value(cursor.connection, query):
            findings.differs(f"read model {self._model.name}: {different} rows of {table} are not what the events give")
