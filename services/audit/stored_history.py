"""History as it is stored, in chunks of outcomes with their events."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import args_row, tuple_row

from services.eventstore.read_events import NumberedRow, events_between, events_numbered
from services.judging.first_uses import FirstUses, remember
from services.retention.months import FIRST_USES_NOT_RETIRED
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import OrderKeys, load_keys
from services.shards.identity import Split


class StoredOutcome(msgspec.Struct, gc=False):
    """A row of `outcomes`. Its events are those numbered above `before`, up to `last_event_id`.

    Of kind `retired`: in the place of one that was retired, with one of its events. Which command that came from is not
    known any more.
    """

    outcome_id: int
    partition: int
    record_offset: int
    kind: str
    order_id: str
    command_id: str
    digest: bytes
    source: str
    before: int
    last_event_id: int
    key: bytes | None
    message: bytes | None

    def is_erased_letter(self, keys: OrderKeys) -> bool:
        """A dead letter that an erased order's key names."""
        return self.kind == "dead" and self.message is None and (self.key or b"").decode(errors="ignore") in keys.erased


class Chunk(msgspec.Struct):
    """Outcomes of some partitions, and their events. `missing`: numbers that should be there, in sentences.

    `keys` are those of the events' orders, and of orders that a dead letter names.
    """

    outcomes: list[StoredOutcome]
    events: dict[int, NumberedRow]
    first_uses: FirstUses
    missing: list[str]
    elsewhere: int
    keys: OrderKeys

    def of(self, outcome: StoredOutcome) -> list[NumberedRow | None]:
        """An outcome's events, None for one that is missing. Up to `elsewhere` other shards have what is not here."""
        numbers = range(outcome.before + 1, outcome.last_event_id + 1)
        return [self.events.get(number) for number in numbers if number in self.events or number > self.elsewhere]


class ChunkLoader(msgspec.Struct, frozen=True):
    """Loads chunks of some partitions. Up to the numbers of `split`, events and outcomes may be another shard's.

    `tells_gaps`: whether it looks for outcomes and events that no partition has.
    """

    connection: Connection[Any]
    masters: MasterKeys
    partitions: Collection[int]
    split: Split
    tells_gaps: bool

    def load(self, after: int, last: int) -> Chunk:
        """What is stored of the outcomes numbered above `after`, up to `last`. Raises MasterKeyError, psycopg.Error."""
        with self.connection.cursor(row_factory=args_row(StoredOutcome), binary=True) as cursor:
            cursor.execute(
                "SELECT outcome_id, partition, record_offset, kind, order_id, command_id, digest, source, before, "
                "last_event_id, key, message FROM (SELECT *, coalesce(lag(last_event_id) OVER (ORDER BY outcome_id), "
                "(SELECT last_event_id FROM outcomes WHERE outcome_id <= %(after)s ORDER BY outcome_id DESC LIMIT 1), "
                "retired_event_id()) AS before FROM outcomes WHERE outcome_id BETWEEN %(after)s AND %(last)s) AS o "
                "WHERE partition = ANY(%(partitions)s) AND outcome_id > %(after)s ORDER BY outcome_id",
                {"after": after, "last": last, "partitions": list(self.partitions)},
            )
            outcomes = cursor.fetchall()
        numbers = [number for row in outcomes for number in range(row.before + 1, row.last_event_id + 1)]
        events = _by_number(events_numbered(self.connection, numbers))
        missing = _missing_events(events, [number for number in numbers if number > self.split.event_id])
        if self.tells_gaps:
            missing += _missing_outcomes(self.connection, max(after, self.split.outcome_id), last)
        order_ids = {row.originator_id for row in events.values()}
        order_ids |= {row.key.decode(errors="ignore") for row in outcomes if row.kind == "dead" and row.key}
        keys = load_keys(self.connection, order_ids, self.masters)
        first_uses = _first_uses(self.connection, outcomes, after)
        return Chunk(outcomes, events, first_uses, missing, self.split.event_id, keys)

    def load_retired(self, after: int, last: int, partition_of: Callable[[str], int]) -> Chunk:
        """The events numbered above `after`, up to `last`, whose outcomes were retired. Raises as `load` does.

        `partition_of` tells an order's partition, which is stored with outcomes only.
        """
        events = _by_number(events_between(self.connection, after, last))
        wanted = range(max(after, self.split.event_id) + 1, last + 1) if self.tells_gaps else ()
        outcomes = [
            StoredOutcome(0, partition, -1, "retired", row.originator_id, "", b"", "", number - 1, number, None, None)
            for number, row in events.items()
            if (partition := partition_of(row.originator_id)) in self.partitions
        ]
        keys = load_keys(self.connection, {row.order_id for row in outcomes}, self.masters)
        return Chunk(outcomes, events, {}, _missing_events(events, wanted), self.split.event_id, keys)


def _by_number(rows: Iterable[NumberedRow]) -> dict[int, NumberedRow]:
    return {row.notification_id: row for row in rows}


def _missing_events(events: Collection[int], wanted: Iterable[int]) -> list[str]:
    return [f"order_events has no notification_id {number}" for number in wanted if number not in events]


def _missing_outcomes(connection: Connection[Any], after: int, last: int) -> list[str]:
    rows = connection.execute(
        "SELECT n FROM generate_series(%s::bigint, %s::bigint) AS n "
        "WHERE NOT EXISTS (SELECT FROM outcomes WHERE outcome_id = n) LIMIT 1000",
        (after + 1, last),
    )
    return [f"outcomes has no outcome_id {number}" for (number,) in rows]


def _first_uses(connection: Connection[Any], outcomes: Collection[StoredOutcome], before: int) -> FirstUses:
    """What repeats had come with first, and the outcome they got then; of those first used in an earlier chunk."""
    again = [row for row in outcomes if row.kind in ("repeated", "reused")]
    if not again:
        return {}
    rows = connection.execute(
        FIRST_USES_NOT_RETIRED + "WHERE outcome_id <= %s",
        (
            [row.order_id for row in again] * 2,
            [row.command_id for row in again] + [row.command_id.lower() for row in again],
            before,
        ),
    )
    found: FirstUses = {}
    for order_id, command_id, digest, message in rows:
        remember(found, order_id, command_id, (digest, message))
    return found


class StoreEnd(msgspec.Struct):
    """Where the store ended at a moment, what was parked then, and how far the commands had been judged."""

    outcome_id: int
    event_id: int
    parked: set[tuple[int, int]]
    judged: dict[int, int]


def store_end(connection: Connection[Any]) -> StoreEnd:
    """Raises psycopg.Error."""
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        [(outcome_id, last)] = cursor.execute(
            "SELECT coalesce(max(outcome_id), 0), coalesce(max(last_event_id), 0) FROM outcomes"
        ).fetchall()
        [(event_id,)] = cursor.execute("SELECT coalesce(max(notification_id), 0) FROM order_events").fetchall()
        parked = cursor.execute("SELECT partition, record_offset FROM parked_commands").fetchall()
        judged = cursor.execute("SELECT partition, next_offset FROM positions WHERE consumer = 'commands'").fetchall()
    return StoreEnd(outcome_id, max(event_id, last), set(parked), dict(judged))


class TimerState(msgspec.Struct):
    """The timer's deadlines, (order id, dispute id) and when, and how far it had read the events by then."""

    deadlines: dict[tuple[str, str], Any]
    positions: dict[int, int]


def timer_state(connection: Connection[Any]) -> TimerState:
    """Raises psycopg.Error."""
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        deadlines = cursor.execute("SELECT order_id, dispute_id, due_at FROM deadlines").fetchall()
        positions = cursor.execute("SELECT partition, next_offset FROM positions WHERE consumer = 'timer'").fetchall()
    return TimerState({(order_id, dispute_id): due_at for order_id, dispute_id, due_at in deadlines}, dict(positions))
