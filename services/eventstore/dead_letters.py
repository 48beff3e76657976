"""Dead letters, which are outcomes too, and what operators did about them."""

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.rows import dict_row
from resolution_contracts.topics import MAX_COMMAND_BYTES

Headers = Sequence[tuple[str, bytes | None]]

UNHANDLED: LiteralString = (
    "outcomes LEFT JOIN handled_dead_letters USING (partition, record_offset) WHERE kind = 'dead' AND how IS NULL"
)
"""SQL: the rows of dead letters that no operator has sent again or discarded."""

_FIRST_BYTES = 64 * 1024
"""What is published of what is too large, so that every dead letter fits on its topic."""

_OWN_HEADERS = 5
"""How many of a stored dead letter's headers are the service's; they are the last ones."""


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


def dead_letters(
    connection: psycopg.Connection[Any],
    places: Collection[tuple[int, int]] | None = None,
    *,
    key: str | None = None,
    error: str | None = None,
    handled: bool = True,
) -> list[DeadLetter]:
    """In the order in which they died: those at these partitions and offsets, with this key, or whose reason has
    `error` in it; without `handled`, only those that nobody did anything about. Raises psycopg.Error."""
    with connection.cursor(row_factory=dict_row, binary=True) as cursor:
        cursor.execute(
            "SELECT partition, record_offset, key, message AS value, headers, how, why FROM outcomes "
            "LEFT JOIN handled_dead_letters USING (partition, record_offset) WHERE kind = 'dead' "
            "AND (%(places)s::bool OR (partition, record_offset) IN (SELECT * FROM unnest(%(partitions)s::int[], "
            "%(offsets)s::bigint[]))) AND (%(key)s::bytea IS NULL OR key = %(key)s) AND (%(handled)s OR how IS NULL) "
            "ORDER BY outcome_id",
            {
                "places": places is None,
                "partitions": [partition for partition, _ in places or ()],
                "offsets": [offset for _, offset in places or ()],
                "key": None if key is None else key.encode(errors="surrogateescape"),  # an argument that is not UTF-8
                "handled": handled,
            },
        )
        headers = msgspec.json.Decoder(list[tuple[str, bytes | None]]).decode
        found = [DeadLetter(**row | {"headers": headers(row["headers"])}) for row in cursor]
    return [letter for letter in found if error is None or error in letter.error]


def handle_dead_letter(connection: psycopg.Connection[Any], letter: DeadLetter, how: str, why: str = "") -> None:
    """Notes what an operator did. Raises psycopg.Error."""
    connection.execute(
        "INSERT INTO handled_dead_letters (partition, record_offset, how, why) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (partition, record_offset) DO UPDATE SET how = excluded.how, why = excluded.why, "
        "handled_at = now()",
        (letter.partition, letter.record_offset, how, why),
    )
