"""Dead letters: records of the commands topic that are not commands. What the relay publishes, and how a retry works.

An operator may send a dead letter again with its first business time (`resolution dead retry --keep-time`). The new
record names the offset of the first record, in the same partition. It gets the first record's time only if the first
record became a dead letter and has the same key and value, byte for byte. So no sender can choose a time.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import msgspec
from resolution_contracts.topics import MAX_COMMAND_BYTES

from .record import Record

Headers = Sequence[tuple[str, bytes | None]]

RETRY_OF = "retry-of"
"""The header of a retried record with the offset of the first record."""
SOURCE_TIMESTAMP = "source-timestamp"
"""The header of a dead letter with the time of its record on the commands topic, in milliseconds since 1970."""

_FIRST_BYTES = 64 * 1024
"""How much of a large key, value or headers is published, so that every dead letter fits on its topic."""

_OWN_HEADERS = 5
"""How many headers the service adds to a dead letter, after the sender's."""


class DeadLetter(msgspec.Struct):
    """A record of the commands topic that is not a command, as it is stored."""

    partition: int
    """The partition of the record."""
    record_offset: int
    """The offset of the record."""
    key: bytes | None
    """The record's key, in full."""
    value: bytes | None
    """The record's value, in full; None if it had none, or if the value was erased."""
    headers: list[tuple[str, bytes | None]]
    """The sender's headers, then the service's."""
    how: str | None
    """How an operator handled it: "retried", "discarded", or None for not yet."""
    why: str | None
    """The operator's reason."""

    @property
    def error(self) -> str:
        """Why the record is not a command."""
        return (dict(self.headers)["error"] or b"").decode(errors="replace")


def published_letter(
    key: bytes | None, value: bytes | None, headers: Headers
) -> tuple[bytes | None, bytes | None, Headers]:
    """Returns the key, value and headers that the relay publishes for a stored dead letter.

    A value that is larger than a command may be is cut to 64 KiB, and so is a key of more than 64 KiB; headers then
    give its full size and digest. Of headers of more than 64 KiB, the first are kept, and one more header counts the
    others.
    """
    kept = list(headers)
    if headers and sum(len(name) + len(content or b"") for name, content in headers) > _FIRST_BYTES:
        kept = [*_first_headers(headers[:-_OWN_HEADERS]), *headers[-_OWN_HEADERS:]]
        kept.append(("headers-left-out", str(len(headers) - len(kept)).encode()))
    if key is not None and len(key) > _FIRST_BYTES:
        kept += _size_and_digest("key", key)
        key = key[:_FIRST_BYTES]
    if value is not None and len(value) > MAX_COMMAND_BYTES:
        kept += _size_and_digest("value", value)
        value = value[:_FIRST_BYTES]
    return key, value, kept


def _first_headers(headers: Headers) -> list[tuple[str, bytes | None]]:
    kept: list[tuple[str, bytes | None]] = []
    left = _FIRST_BYTES
    for name, content in headers:
        left -= len(name.encode()) + len(content or b"") + 10
        if left < 0:
            break
        kept.append((name, content))
    return kept


def _size_and_digest(what: str, content: bytes) -> Headers:
    digest = hashlib.sha256(content).hexdigest().encode()
    return [(f"{what}-bytes", str(len(content)).encode()), (f"{what}-sha256", digest)]


def first_offset(record: Record) -> int | None:
    """Returns the offset of the earlier record that this one retries, or None if it names none."""
    value: bytes | None  # any sender can leave a header without one
    for name, value in record.headers:
        if name == RETRY_OF and value is not None and value.isdigit() and len(value) < 19:
            return offset if (offset := int(value)) < record.offset else None
    return None


def at_first_time(record: Record, letter: DeadLetter | None) -> Record:
    """Returns the record with the first record's time, or unchanged if `letter` is None or has other content."""
    if letter is None or (letter.key, letter.value) != (record.key, record.value):
        return record
    timestamp = dict(letter.headers).get(SOURCE_TIMESTAMP)
    return record if timestamp is None else replace(record, timestamp=int(timestamp))


def all_at_first_time(
    records: Sequence[Record],
    is_dead: Callable[[Record], bool],
    letters: Callable[[Collection[tuple[int, int]]], Mapping[tuple[int, int], DeadLetter]],
) -> Sequence[Record]:
    """Applies `at_first_time` to records that were read together, and returns them in the same order.

    If the first record is among `records`, `is_dead` says whether it becomes a dead letter. `letters` looks up all
    others in one call, by partition and offset: a sender may name any offset in any number of records.
    """
    named = {(r.partition, offset) for r in records if (offset := first_offset(r)) is not None}
    if not named:
        return records
    stored = letters(named)
    named_records: dict[tuple[int, int], Record] = {}
    dated: list[Record] = []
    for record in records:
        dated_record = record
        if (offset := first_offset(record)) is not None:
            first_at = (record.partition, offset)
            first = named_records.get(first_at)
            if first is None:
                dated_record = at_first_time(record, stored.get(first_at))
            elif (first.key, first.value) == (record.key, record.value) and is_dead(first):
                dated_record = replace(record, timestamp=first.timestamp)
        if (record.partition, record.offset) in named:
            named_records[record.partition, record.offset] = dated_record
        dated.append(dated_record)
    return dated
