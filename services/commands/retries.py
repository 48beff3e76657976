"""Dead letters that an operator sent again with their first business time (`resolution dead retry --keep-time`).

Such a record names the offset of the first one, in the same partition. It gets that one's time only if that one became
a dead letter and was the same, byte for byte: so nobody can choose a time, and the log alone still decides.
"""

from dataclasses import replace

from services.kafka.consumer import Record
from services.store.dead_letters import DeadLetter

RETRY_OF = "retry-of"
RECORDED = "source-timestamp"
"""A dead letter's header with the time of its record on the commands topic, in milliseconds since 1970."""


def first_offset(record: Record) -> int | None:
    """Which record this one repeats, if it says so."""
    for name, value in record.headers:
        if name == RETRY_OF and value.isdigit() and len(value) < 19:
            return int(value)
    return None


def at_first_time(record: Record, letter: DeadLetter | None) -> Record:
    """The record as if it had come when the first one did; as it is, where the letter is none or another."""
    if letter is None or (letter.key, letter.value) != (record.key, record.value):
        return record
    recorded = dict(letter.headers).get(RECORDED)
    return record if recorded is None else replace(record, timestamp=int(recorded))
