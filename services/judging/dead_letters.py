"""Dead letters: records of the commands topic that are no command, what is published of them, and what a retry means.

An operator may send one again with its first business time (`resolution dead retry --keep-time`). Such a record names
the offset of the first one, in the same partition. It gets that one's time only if that one became a dead letter and
was the same, byte for byte: so nobody can choose a time, and the log alone still decides.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import msgspec
from resolution_contracts.topics import MAX_COMMAND_BYTES

from .record import Record

Headers = Sequence[tuple[str, bytes | None]]

RETRY_OF = "retry-of"
RECORDED = "source-timestamp"
"""A dead letter's header with the time of its record on the commands topic, in milliseconds since 1970."""

_FIRST_BYTES = 64 * 1024
"""What is published of what is too large, so that every dead letter fits on its topic."""

_OWN_HEADERS = 5
"""How many of a stored dead letter's headers are the service's; they are the last ones."""


class DeadLetter(msgspec.Struct):
    """A record of the commands topic that is no command. `how` it was handled: "retried", "discarded", or None."""

    partition: int
    record_offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    how: str | None
    why: str | None

    @property
    def error(self) -> str:
        """Why it is none."""
        return (dict(self.headers)["error"] or b"").decode(errors="replace")


def published_letter(
    key: bytes | None, value: bytes | None, headers: Headers
) -> tuple[bytes | None, bytes | None, Headers]:
    """What goes on the topic of a dead letter that is stored whole.

    Of a value larger than a command may be, and of a key or headers larger than 64 KiB, the first 64 KiB; then headers
    say how much there is.
    """
    kept = list(headers)
    if headers and sum(len(name) + len(content or b"") for name, content in headers) > _FIRST_BYTES:
        kept = [*_that_fit(headers[:-_OWN_HEADERS]), *headers[-_OWN_HEADERS:]]
        kept.append(("headers-left-out", str(len(headers) - len(kept)).encode()))
    if key is not None and len(key) > _FIRST_BYTES:
        kept += _measured("key", key)
        key = key[:_FIRST_BYTES]
    if value is not None and len(value) > MAX_COMMAND_BYTES:
        kept += _measured("value", value)
        value = value[:_FIRST_BYTES]
    return key, value, kept


def _that_fit(headers: Headers) -> list[tuple[str, bytes | None]]:
    kept: list[tuple[str, bytes | None]] = []
    left = _FIRST_BYTES
    for name, content in headers:
        left -= len(name.encode()) + len(content or b"") + 10
        if left < 0:
            break
        kept.append((name, content))
    return kept


def _measured(what: str, content: bytes) -> Headers:
    digest = hashlib.sha256(content).hexdigest().encode()
    return [(f"{what}-bytes", str(len(content)).encode()), (f"{what}-sha256", digest)]


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
