"""Judges records in order: repeats first, then the order's own word. Pure: no Kafka, no SQL, no clock."""

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

_LONGEST_ID = 200
_NO_TIME = (
    "the record has a time that no event can have, and not the broker's: set message.timestamp.type=LogAppendTime on "
    "the topic, and send it again"
)


class Failed(msgspec.Struct):
    """A record on which our own code failed before the command was read. Its order is the one that its key names."""

    order_id: str
    why: str
    command_id: str = ""


Reading = Received | Failed | str
"""A record's command, or our failure to read it, or the reason why it is none."""


class Judged(msgspec.Struct):
    """What a sequence of records brings out. `first_uses` are the command ids used first in it.

    `in_capitals`: orders with command ids that have capital letters. `tally` counts the records by the command's name
    and what became of it, for whoever watches.
    """

    events: list[Event] = []
    outcomes: list[JudgedOutcome] = []
    parked: list[ParkedCommand] = []
    first_uses: FirstUses = {}
    in_capitals: set[str] = set()
    tally: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)


def read(
    records: Iterable[Record],
    business_time: Callable[[int], datetime],
    partitions: int | None,
    *,
    as_before: bool = False,
) -> list[tuple[Record, Reading]]:
    """Each record with what it says. `partitions` and `as_before`: see `decode`."""
    readings: list[tuple[Record, Reading]] = []
    timestamp: int | None = None
    time: datetime | None = None
    for record in records:
        if record.timestamp != timestamp:  # the broker stamps whole batches alike
            timestamp, time = record.timestamp, _time_of(record, business_time)
        readings.append((record, _NO_TIME if time is None else _read_one(record, time, partitions, as_before)))
    return readings


def _time_of(record: Record, business_time: Callable[[int], datetime]) -> datetime | None:
    """None if it is one that events cannot have. Only a sender can have chosen it, for the broker stamps its own."""
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
        # An index takes no text of any length.
        return Failed((record.key or b"")[:_LONGEST_ID].decode(errors="replace").replace("\0", ""), _where(bug))


def judge(
    readings: Sequence[tuple[Record, Reading]],
    orders: Mapping[str, Order | Exception],
    known: Sequence[FirstUses],
    parked: set[str],
) -> Judged:
    """Judges in the order of the log.

    `orders` has every order named, or why it cannot be loaded, and is changed; `known` tells earlier uses. An order on
    which our own code fails joins `parked`: this command and its later ones are kept, the other orders go on. The order
    as it is then is of no use.
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
                why = reading.why if isinstance(reading, Failed) else _where(bug)
                log.error("order %s is parked: %s", reading.order_id, why, extra=_about(record, reading))
                parked.add(reading.order_id)
                _park(record, reading, why, judged)
    _tally_accepted(readings, judged)
    return judged


def _tally_accepted(readings: Sequence[tuple[Record, Reading]], judged: Judged) -> None:
    """All commands less the others: most are accepted, and counting each by itself is felt in a backlog."""
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
    """Raises our own code's failure; then nothing is added to `judged`."""
    if isinstance(received, Failed):
        raise RuntimeError(received.why)
    order = orders[received.order_id]
    if isinstance(order, Exception):
        raise order
    first = first_use(earlier, received.order_id, received.command_id, as_written=received.as_before)
    if first is not None:
        row = _again(order, received, record, first)
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


def _again(order: Order, received: Received, record: Record, first: FirstUse | Retired) -> JudgedOutcome:
    """A command id seen before changes nothing: the first outcome again, or `command_id_reused` (D19).

    The latter, too, where the first outcome was retired.
    """
    if isinstance(first, Retired):
        why = rejections.command_id_of_old()
    elif _is_same_data(received, record, first.digest):
        return outcomes.repeated(received, record, first.message)
    else:
        why = rejections.command_id_reused()
    return outcomes.reused(received, record, order.business_time(received.time), why)


def _is_same_data(received: Received, record: Record, digest: bytes) -> bool:
    """An earlier version made another digest of data that names a dispute in capital letters."""
    if digest == received.digest or received.as_before:
        return digest == received.digest
    return digest == decode(record, received.time, None, as_before=True).digest


def _decide(order: Order, received: Received, record: Record) -> tuple[JudgedOutcome, list[Event], str]:
    """The outcome, its events, and the code of a rejection."""
    now = order.business_time(received.time)
    decision = decide(order, received.command, received.command_id, now, ids_as_written=received.as_before)
    events, rejection = decision.events, decision.rejection
    evolve_all(order, events)
    if rejection is not None:
        return outcomes.rejected(received, record, now, rejection, len(events)), events, rejection.code
    return outcomes.accepted(received, record, now, events), events, ""


def _about(record: Record, reading: Received | Failed) -> dict[str, str | int]:
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


def _where(bug: Exception) -> str:
    """The kind of failure and its place. Its text might quote the command, whose reason may be confidential (D16)."""
    frames = traceback.extract_tb(bug.__traceback__)
    place = f" in {frames[-1].name}, {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(bug).__name__}{place}"
