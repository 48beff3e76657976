"""History as it is stored, in chunks of outcomes with their events."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import tuple_row

from services.eventstore.outcomes import OutcomeWithEvents, first_uses_before, missing_outcomes, outcomes_between
from services.eventstore.read_events import NumberedRow, events_between, events_numbered
from services.judging.first_uses import FirstUses
from services.judging.outcomes import Outcome, OutcomeKind
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import OrderKeys, load_keys
from services.shards.identity import Split


def is_erased_letter(outcome: Outcome, keys: OrderKeys) -> bool:
    """Whether this is a dead letter whose value was erased with the texts of the order that its key names."""
    if outcome.kind is not OutcomeKind.DEAD or outcome.message is not None:
        return False
    return (outcome.key or b"").decode(errors="ignore") in keys.erased


class Chunk(msgspec.Struct):
    """Outcomes of some partitions, and their events. `missing`: numbers that should be there, in sentences.

    `keys` are those of the events' orders, and of orders that a dead letter names.
    """

    outcomes: list[OutcomeWithEvents]
    events: dict[int, NumberedRow]
    first_uses: FirstUses
    missing: list[str]
    elsewhere: int
    keys: OrderKeys

    def of(self, outcome: OutcomeWithEvents) -> list[NumberedRow | None]:
        """An outcome's events, None for one that is missing. Up to `elsewhere` other shards have what is not here."""
        return [
            self.events.get(number) for number in outcome.event_ids if number in self.events or number > self.elsewhere
        ]


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
        outcomes = outcomes_between(self.connection, self.partitions, after, last)
        numbers = [number for row in outcomes for number in row.event_ids]
        events = _by_number(events_numbered(self.connection, numbers))
        missing = _missing_events(events, [number for number in numbers if number > self.split.event_id])
        if self.tells_gaps:
            gaps = missing_outcomes(self.connection, max(after, self.split.outcome_id), last)
            missing += [f"outcomes has no outcome_id {number}" for number in gaps]
        order_ids = {row.originator_id for row in events.values()}
        order_ids |= {row.key.decode(errors="ignore") for row in outcomes if row.kind is OutcomeKind.DEAD and row.key}
        keys = load_keys(self.connection, order_ids, self.masters)
        repeats = [(row.order_id, row.command_id) for row in outcomes if row.kind.is_repeat]
        first_uses = first_uses_before(self.connection, repeats, after)
        return Chunk(outcomes, events, first_uses, missing, self.split.event_id, keys)

    def load_retired(self, after: int, last: int, partition_of: Callable[[str], int]) -> Chunk:
        """The events numbered above `after`, up to `last`, whose outcomes were retired. Raises as `load` does.

        `partition_of` tells an order's partition, which is stored with outcomes only.
        """
        events = _by_number(events_between(self.connection, after, last))
        wanted = range(max(after, self.split.event_id) + 1, last + 1) if self.tells_gaps else ()
        outcomes = [
            _retired(row, partition)
            for row in events.values()
            if (partition := partition_of(row.originator_id)) in self.partitions
        ]
        keys = load_keys(self.connection, {row.order_id for row in outcomes}, self.masters)
        return Chunk(outcomes, events, {}, _missing_events(events, wanted), self.split.event_id, keys)


def _by_number(rows: Iterable[NumberedRow]) -> dict[int, NumberedRow]:
    return {row.notification_id: row for row in rows}


def _missing_events(events: Collection[int], wanted: Iterable[int]) -> list[str]:
    return [f"order_events has no notification_id {number}" for number in wanted if number not in events]


def _retired(event: NumberedRow, partition: int) -> OutcomeWithEvents:
    """Stands for the retired outcome that an event was stored with."""
    return OutcomeWithEvents(
        OutcomeKind.RETIRED,
        partition,
        record_offset=-1,
        message=None,
        order_id=event.originator_id,
        command_id="",
        digest=b"",
        source="",
        key=None,
        headers=None,
        traceparent=None,
        outcome_id=0,
        last_event_id=event.notification_id,
        before=event.notification_id - 1,
    )


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
