"""Reads dead letters from the table `outcomes`, and notes what operators did about them."""

from collections.abc import Collection
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.rows import dict_row

from services.judging.dead_letters import DeadLetter

UNHANDLED: LiteralString = (
    "outcomes LEFT JOIN handled_dead_letters USING (partition, record_offset) WHERE kind = 'dead' AND how IS NULL"
)
"""SQL: the dead letters that no operator has retried or discarded."""


def dead_letters(
    connection: psycopg.Connection[Any],
    places: Collection[tuple[int, int]] | None = None,
    *,
    key: str | None = None,
    error: str | None = None,
    handled: bool = True,
) -> list[DeadLetter]:
    """Returns dead letters, oldest first. All filters that are given must match. Raises psycopg.Error.

    `places` are partitions and offsets, `key` is the record's key, and `error` a part of the reason. Without
    `handled`, leaves out those that an operator has retried or discarded.
    """
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
        letters = [DeadLetter(**row | {"headers": headers(row["headers"])}) for row in cursor]
    return [letter for letter in letters if error is None or error in letter.error]


def handle_dead_letter(connection: psycopg.Connection[Any], letter: DeadLetter, how: str, why: str = "") -> None:
    """Notes that an operator retried or discarded a dead letter, and why. Raises psycopg.Error."""
    connection.execute(
        "INSERT INTO handled_dead_letters (partition, record_offset, how, why) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (partition, record_offset) DO UPDATE SET how = excluded.how, why = excluded.why, "
        "handled_at = now()",
        (letter.partition, letter.record_offset, how, why),
    )
