"""Loads the stored history in chunks: outcomes with their events."""

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
    """Outcomes of some partitions, and their events."""

    outcomes: list[OutcomeWithEvents]
    """The outcomes, in the order of judging."""
    events: dict[int, NumberedRow]
    """The events by their numbers."""
    first_uses: FirstUses
    """The earlier first uses of the outcomes' command ids."""
    missing: list[str]
    """Sentences about outcomes and events that should be stored, but are not."""
    elsewhere: int
    """Events up to this number may be in another shard."""
    keys: OrderKeys
    """The keys of the events' orders, and of orders that dead letters name."""

    def of(self, outcome: OutcomeWithEvents) -> list[NumberedRow | None]:
        """Returns an outcome's events, None for one that is missing. Leaves out events of other shards."""
        return [
            self.events.get(number) for number in outcome.event_ids if number in self.events or number > self.elsewhere
        ]


class ChunkLoader(msgspec.Struct, frozen=True):
    """Loads chunks of some partitions."""

    connection: Connection[Any]
    """Where to read."""
    masters: MasterKeys
    """Unwrap the order keys."""
    partitions: Collection[int]
    """The partitions whose outcomes are loaded."""
    split: Split
    """Events and outcomes up to these numbers may be in another shard."""
    reports_gaps: bool
    """Whether to look for outcomes and events that no partition has."""

    def load(self, after: int, last: int) -> Chunk:
        """Loads the outcomes numbered above `after`, up to `last`. Raises MasterKeyError and psycopg.Error."""
        outcomes = outcomes_between(self.connection, self.partitions, after, last)
        numbers = [number for row in outcomes for number in row.event_ids]
        events = _by_number(events_numbered(self.connection, numbers))
        missing = _missing_events(events, [number for number in numbers if number > self.split.event_id])
        if self.reports_gaps:
            gaps = missing_outcomes(self.connection, max(after, self.split.outcome_id), last)
            missing += [f"outcomes has no outcome_id {number}" for number in gaps]
        order_ids = {row.originator_id for row in events.values()}
        order_ids |= {row.key.decode(errors="ignore") for row in outcomes if row.kind is OutcomeKind.DEAD and row.key}
        keys = load_keys(self.connection, order_ids, self.masters)
        repeats = [(row.order_id, row.command_id) for row in outcomes if row.kind.is_repeat]
        first_uses = first_uses_before(self.connection, repeats, after)
        return Chunk(outcomes, events, first_uses, missing, self.split.event_id, keys)

    def load_retired(self, after: int, last: int, partition_of: Callable[[str], int]) -> Chunk:
        """Loads the events numbered above `after`, up to `last`, whose outcomes were retired. Raises as `load` does.

        `partition_of` computes an order's partition, which only outcomes store.
        """
        events = _by_number(events_between(self.connection, after, last))
        wanted = range(max(after, self.split.event_id) + 1, last + 1) if self.reports_gaps else ()
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
    """Returns an outcome that stands for the retired one of an event."""
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
    """The end of the store at one moment."""

    outcome_id: int
    """The last outcome."""
    event_id: int
    """The last event."""
    parked: set[tuple[int, int]]
    """Partition and offset of the parked commands."""
    judged: dict[int, int]
    """The commands role's next offset, by partition."""


def store_end(connection: Connection[Any]) -> StoreEnd:
    """Returns the end of the store now. Raises psycopg.Error."""
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
    """What the timer has stored at one moment."""

    deadlines: dict[tuple[str, str], Any]
    """The deadlines, by order id and dispute id."""
    positions: dict[int, int]
    """The timer's next offset, by partition."""


def timer_state(connection: Connection[Any]) -> TimerState:
    """Returns what the timer has stored now. Raises psycopg.Error."""
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        deadlines = cursor.execute("SELECT order_id, dispute_id, due_at FROM deadlines").fetchall()
        positions = cursor.execute("SELECT partition, next_offset FROM positions WHERE consumer = 'timer'").fetchall()
    return TimerState({(order_id, dispute_id): due_at for order_id, dispute_id, due_at in deadlines}, dict(positions))
