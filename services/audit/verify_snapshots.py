"""Compares snapshots with a replay of their orders' events. Reads only."""

from collections.abc import Callable, Collection, Iterator

from eventsourcing.persistence import MapperDeserialisationError
from psycopg import Cursor
from psycopg.rows import DictRow, dict_row

from services.eventstore.database import connect
from services.eventstore.event_codec import Stored, decode_event
from services.eventstore.read_events import first_events_of
from services.eventstore.snapshots import STATE_VERSION, encode_state
from services.orders import Order
from services.orders.evolve import evolve_all
from services.sealing.order_keys import WITHOUT_TEXTS

from .findings import Findings

_AT_ONCE = 100


def verify_snapshots(url: str, findings: Findings, progress: Callable[[int, int], None]) -> None:
    """Compares each snapshot of the current version, byte for byte. Calls `progress(done, total)`.

    Skips snapshots of other versions, which are replaced when their orders are loaded. Raises psycopg.Error.
    """
    with connect(url, row_factory=dict_row) as connection, connection.cursor(binary=True) as cursor:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        [count] = cursor.execute("SELECT count(*) AS n FROM order_snapshots WHERE code = %s", (STATE_VERSION,))
        for snapshots in _snapshots(cursor):
            histories = first_events_of(connection, {row["order_id"]: row["version"] for row in snapshots})
            for snapshot in snapshots:
                order_id = snapshot["order_id"]
                if _replayed(order_id, histories.get(order_id, ())) != (snapshot["version"], snapshot["state"]):
                    findings.differs(f"order {order_id}: its snapshot is not what its events give")
            findings.snapshots += len(snapshots)
            progress(findings.snapshots, count["n"])
        connection.rollback()


def _snapshots(cursor: Cursor[DictRow]) -> Iterator[list[DictRow]]:
    """Yields lists of snapshots, sorted by order id. The cursor may be used in between."""
    last = ""
    while True:
        cursor.execute(
            "SELECT order_id, version, state FROM order_snapshots WHERE code = %s AND order_id > %s "
            "ORDER BY order_id LIMIT %s",
            (STATE_VERSION, last, _AT_ONCE),
        )
        snapshots = cursor.fetchall()
        if not snapshots:
            return
        last = snapshots[-1]["order_id"]
        yield snapshots


def _replayed(order_id: str, history: Collection[Stored]) -> tuple[int, bytes] | None:
    """Returns version and state, or None if the history cannot be replayed or leaves a dispute open."""
    try:
        order = evolve_all(Order(id=order_id), (decode_event(stored, WITHOUT_TEXTS) for stored in history))
        return order.version, encode_state(order)
    except (MapperDeserialisationError, ValueError, AssertionError):
        return None
