"""Dead letters that an operator sent again with their first business time (`resolution dead retry --keep-time`).

Such a record names the offset of the first one, in the same partition. It gets that one's time only if that one became
a dead letter and was the same, byte for byte: so nobody can choose a time, and the log alone still decides.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from services.eventstore.dead_letters import DeadLetter
from services.kafka.consumer import Record

RETRY_OF = "retry-of"
RECORDED = "source-timestamp"
"""A dead letter's header with the time of its record on the commands topic, in milliseconds since 1970."""


def first_offset(record: Record) -> int | None:
    """Which earlier record of its partition this one repeats, if it says so."""
    value: bytes | None  # any sender can leave a header without one
    for name, value in record.headers:
        if name == RETRY_OF and value is not None and value.isdigit() and len(value) < 19:
            return offset if (offset := int(value)) < record.offset else None
    return None


def at_first_time(record: Record, letter: DeadLetter | None) -> Record:
    """The record as if it had come when the first one did; as it is, where the letter is none or another."""
    if letter is None or (letter.key, letter.value) != (record.key, record.value):
        return record
    recorded = dict(letter.headers).get(RECORDED)
    return record if recorded is None else replace(record, timestamp=int(recorded))


def all_at_first_time(
    records: Sequence[Record],
    is_dead: Callable[[Record], bool],
    letters: Callable[[Collection[tuple[int, int]]], Mapping[tuple[int, int], DeadLetter]],
) -> Sequence[Record]:
    """A batch's records as `at_first_time` gives each.

    Which one a record repeats may be in the batch itself: whether that one becomes a dead letter, `is_dead` says. The
    others are looked up by partition and offset, all at once. A sender may name any offset in as many records as it
    likes, so none of them costs a look of its own.
    """
    named = {(r.partition, offset) for r in records if (offset := first_offset(r)) is not None}
    if not named:
        return records
    stored = letters(named)
    here: dict[tuple[int, int], Record] = {}
    found: list[Record] = []
    for record in records:
        timely = record
        if (offset := first_offset(record)) is not None:
            first = here.get(place := (record.partition, offset))
            if first is None:
                timely = at_first_time(record, stored.get(place))
            elif (first.key, first.value) == (record.key, record.value) and is_dead(first):
                timely = replace(record, timestamp=first.timestamp)
        if (record.partition, record.offset) in named:
            here[record.partition, record.offset] = timely
        found.append(timely)
    return found
