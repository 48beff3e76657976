"""Judges records in order: repeats first, then the order's own word. Pure: no Kafka, no SQL, no clock."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import msgspec

from services.kafka.consumer import Record
from services.orders import Order, Rejected, rejections
from services.orders.events import Event
from services.store import OutcomeRow

from . import outcomes
from .decode import Received, Unreadable, decode

FirstUses = dict[tuple[str, str], tuple[bytes, bytes]]
"""By order id and command id: the digest of the data it first came with, and the outcome it got."""


class Judged(msgspec.Struct):
    """What a sequence of records brings out. `first_uses` are the command ids used first in it."""

    events: list[Event] = []
    outcomes: list[OutcomeRow] = []
    first_uses: FirstUses = {}


def read(records: Iterable[Record], business_time: Callable[[int], datetime]) -> list[tuple[Record, Received | str]]:
    """Each record with its command, or with the reason why it is none."""
    readings: list[tuple[Record, Received | str]] = []
    timestamp, time = None, datetime.min
    for record in records:
        if record.timestamp != timestamp:  # the broker stamps whole batches alike
            timestamp, time = record.timestamp, business_time(record.timestamp)
        readings.append((record, _read_one(record, time)))
    return readings


def _read_one(record: Record, time: datetime) -> Received | str:
    try:
        return decode(record, time)
    except Unreadable as unreadable:
        return str(unreadable)


def judge(
    readings: Sequence[tuple[Record, Received | str]], orders: dict[str, Order], known: Sequence[FirstUses]
) -> Judged:
    """Judges in the order of the log. `orders` has every order named and is changed; `known` tells earlier uses."""
    judged = Judged()
    earlier = [judged.first_uses, *filter(None, known)]
    for record, reading in readings:
        if isinstance(reading, str):
            judged.outcomes.append(outcomes.dead(record, reading))
            continue
        order = orders[reading.order_id]
        use = (reading.order_id, reading.command_id)
        first = _first_use(use, earlier)
        if first is not None:
            judged.outcomes.append(_again(order, reading, record, *first))
            continue
        row = _judge_one(order, reading, record, judged.events)
        assert row.message is not None
        judged.outcomes.append(row)
        judged.first_uses[use] = (reading.digest, row.message)
    return judged


def _first_use(use: tuple[str, str], earlier: Sequence[FirstUses]) -> tuple[bytes, bytes] | None:
    for uses in earlier:
        if use in uses:
            return uses[use]
    return None


def _again(order: Order, received: Received, record: Record, digest: bytes, message: bytes) -> OutcomeRow:
    """A command id seen before changes nothing: the first outcome again, or `command_id_reused` (D19)."""
    if digest == received.digest:
        return outcomes.repeated(received, record, message)
    return outcomes.reused(received, record, order.business_time(received.time), rejections.command_id_reused())


def _judge_one(order: Order, received: Received, record: Record, events: list[Event]) -> OutcomeRow:
    now = order.business_time(received.time)
    try:
        order.handle(received.command, received.command_id, now)
    except Rejected as why:
        new = order.collect_events()
        events += new
        return outcomes.rejected(received, record, now, why, len(new))
    new = order.collect_events()
    events += new
    return outcomes.accepted(received, record, now, new)
