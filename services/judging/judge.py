"""Judges records in their order: finds repeats, and applies the rules to the others. No Kafka, no SQL and no clock."""

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import msgspec
from resolution_contracts.values import FIRST_YEAR, LAST_YEAR

from services.orders import Order, rejections
from services.orders.decide import decide
from services.orders.events import Event
from services.orders.evolve import evolve_all

from . import outcomes
from .decode import Received, Unreadable, decode
from .first_uses import FirstUse, FirstUses, Retired, first_use, has_capitals, remember
from .outcomes import JudgedOutcome, OutcomeKind, ParkedCommand
from .record import Record

log = logging.getLogger(__name__)

_MAX_ID_BYTES = 200
_NO_TIME = (
    "the record has a time that no event can have, and not the broker's: set message.timestamp.type=LogAppendTime on "
    "the topic, and send it again"
)


class Failed(msgspec.Struct):
    """A record that could not be read because of a bug in our own code."""

    order_id: str
    """The order that the record's key names."""
    why: str
    """The exception and the line that raised it."""
    command_id: str = ""


Reading = Received | Failed | str
"""A record's command, the bug that kept us from reading it, or the reason why the record is not a command."""


class Judged(msgspec.Struct):
    """What follows from a sequence of records."""

    events: list[Event] = []
    """The events, in the order in which they happened."""
    outcomes: list[JudgedOutcome] = []
    """One for each record that was not parked, in the order of the records."""
    parked: list[ParkedCommand] = []
    """The commands that wait for an operator, in the order of their records."""
    first_uses: FirstUses = {}
    """The command ids that were used for the first time."""
    in_capitals: set[str] = set()
    """The orders with new command ids that have capital letters."""
    tally: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    """The number of records by command name and outcome, for metrics."""


def read(
    records: Iterable[Record],
    business_time: Callable[[int], datetime],
    partitions: int | None,
    *,
    as_before: bool = False,
) -> list[tuple[Record, Reading]]:
    """Returns each record with its reading, in the same order. `partitions` and `as_before`: see `decode`."""
    readings: list[tuple[Record, Reading]] = []
    timestamp: int | None = None
    time: datetime | None = None
    for record in records:
        if record.timestamp != timestamp:  # the broker gives all records of a record batch the same timestamp
            timestamp, time = record.timestamp, _time_of(record, business_time)
        readings.append((record, _NO_TIME if time is None else _read_one(record, time, partitions, as_before)))
    return readings


def _time_of(record: Record, business_time: Callable[[int], datetime]) -> datetime | None:
    """Returns the business time, or None if no event can have it. Such a time is the sender's, not the broker's."""
    with suppress(OverflowError, ValueError):
        time = business_time(record.timestamp)
        if FIRST_YEAR <= time.year < LAST_YEAR:  # a deadline may follow
            return time
    return None


def _read_one(record: Record, time: datetime, partitions: int | None, as_before: bool) -> Reading:
    try:
        return decode(record, time, partitions, as_before=as_before)
    except Unreadable as unreadable:
        return str(unreadable)
    except Exception as bug:
        # The id is cut, because PostgreSQL cannot index a text of any length.
        order_id = (record.key or b"")[:_MAX_ID_BYTES].decode(errors="replace").replace("\0", "")
        return Failed(order_id, _failure_site(bug))


def judge(
    readings: Sequence[tuple[Record, Reading]],
    orders: Mapping[str, Order | Exception],
    known: Sequence[FirstUses],
    parked: set[str],
) -> Judged:
    """Judges records in their order.

    `orders` has each order that a command is about, or the exception that kept it from being loaded; its orders are
    changed. `known` has the earlier uses of command ids. If our own code fails on a command, its order is added to
    `parked`: this command and the order's later commands are parked, and the order in `orders` must not be used any
    more. All other orders are judged as usual.
    """
    judged = Judged()
    earlier = [judged.first_uses, *filter(None, known)]
    for record, reading in readings:
        if isinstance(reading, str):
            judged.outcomes.append(outcomes.dead(record, reading))
            judged.tally["", "dead_letter"] += 1
        elif reading.order_id in parked:
            _park(record, reading, "", judged)
        else:
            try:
                _judge_one(record, reading, orders, earlier, judged)
            except Exception as bug:
                why = reading.why if isinstance(reading, Failed) else _failure_site(bug)
                log.error("order %s is parked: %s", reading.order_id, why, extra=_log_fields(record, reading))
                parked.add(reading.order_id)
                _park(record, reading, why, judged)
    _tally_accepted(readings, judged)
    return judged


def _tally_accepted(readings: Sequence[tuple[Record, Reading]], judged: Judged) -> None:
    """Counts the accepted commands as all commands less the others, which is faster than counting one by one."""
    accepted = Counter([reading.name for _, reading in readings if isinstance(reading, Received)])
    for (name, _), count in judged.tally.items():
        accepted[name] -= count
    judged.tally.update({(name, "accepted"): count for name, count in accepted.items() if count > 0})


def _judge_one(
    record: Record,
    received: Received | Failed,
    orders: Mapping[str, Order | Exception],
    earlier: Sequence[FirstUses],
    judged: Judged,
) -> None:
    """Adds what follows from one command to `judged`. Adds nothing if our own code fails, and raises its exception."""
    if isinstance(received, Failed):
        raise RuntimeError(received.why)
    order = orders[received.order_id]
    if isinstance(order, Exception):
        raise order
    first = first_use(earlier, received.order_id, received.command_id, as_written=received.as_before)
    if first is not None:
        row = _repeat(order, received, record, first)
        judged.outcomes.append(row)
        judged.tally[received.name, "duplicate" if row.kind is OutcomeKind.REPEATED else "command_id_reused"] += 1
        return
    row, events, code = _decide(order, received, record)
    assert row.message is not None
    remember(judged.first_uses, received.order_id, received.command_id, FirstUse(received.digest, row.message))
    if has_capitals(received.command_id):
        judged.in_capitals.add(received.order_id)
    judged.outcomes.append(row)
    judged.events += events
    if code:
        judged.tally[received.name, code] += 1


def _repeat(order: Order, received: Received, record: Record, first: FirstUse | Retired) -> JudgedOutcome:
    """Returns the outcome of a command whose id was used before.

    That is the first outcome again, or `command_id_reused` if the data differs or the first outcome was retired (D19).
    """
    if isinstance(first, Retired):
        why = rejections.command_id_of_old()
    elif _is_same_data(received, record, first.digest):
        return outcomes.repeated(received, record, first.message)
    else:
        why = rejections.command_id_reused()
    return outcomes.reused(received, record, order.business_time(received.time), why)


def _is_same_data(received: Received, record: Record, digest: bytes) -> bool:
    """Earlier versions computed another digest if the data names a dispute in capital letters. Compares both."""
    if digest == received.digest or received.as_before:
        return digest == received.digest
    return digest == decode(record, received.time, None, as_before=True).digest


def _decide(order: Order, received: Received, record: Record) -> tuple[JudgedOutcome, list[Event], str]:
    """Returns the outcome, its events, and the code of a rejection or ""."""
    now = order.business_time(received.time)
    decision = decide(order, received.command, received.command_id, now, ids_as_written=received.as_before)
    events, rejection = decision.events, decision.rejection
    evolve_all(order, events)
    if rejection is not None:
        return outcomes.rejected(received, record, now, rejection, len(events)), events, rejection.code
    return outcomes.accepted(received, record, now, events), events, ""


def _log_fields(record: Record, reading: Received | Failed) -> dict[str, str | int]:
    return {
        "order_id": reading.order_id,
        "command_id": reading.command_id,
        "partition": record.partition,
        "offset": record.offset,
    }


def _park(record: Record, reading: Received | Failed, why: str, judged: Judged) -> None:
    name = reading.name if isinstance(reading, Received) else ""
    judged.tally[name, "parked"] += 1
    command = ParkedCommand(
        partition=record.partition,
        record_offset=record.offset,
        order_id=reading.order_id,
        command_id=reading.command_id,
        record_time=record.timestamp,
        key=record.key,
        value=record.value,
        headers=msgspec.json.encode(record.headers),
        why=why,
    )
    judged.parked.append(command)


def _failure_site(bug: Exception) -> str:
    """Returns the exception's type and line. Its text is left out: it may quote a confidential reason (D16)."""
    frames = traceback.extract_tb(bug.__traceback__)
    line = f" in {frames[-1].name}, {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(bug).__name__}{line}"
