"""Dead letters, which are outcomes too, and what operators did about them."""

from collections.abc import Collection
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.rows import dict_row

from services.judging.dead_letters import DeadLetter

UNHANDLED: LiteralString = (
    "outcomes LEFT JOIN handled_dead_letters USING (partition, record_offset) WHERE kind = 'dead' AND how IS NULL"
)
"""SQL: the rows of dead letters that no operator has sent again or discarded."""


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
