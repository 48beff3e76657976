"""What became of an order's commands, from the table `outcomes`."""

from typing import Any

import msgspec
import psycopg
from psycopg.rows import class_row


class JudgedCommand(msgspec.Struct):
    """A command of the log and what was decided.

    `kind`: "accepted", "rejected", "repeated" (the first outcome again) or "reused" (its id had come with other data).
    `outcome_id` follows the order of judging; `message` is the outcome's envelope.
    """

    outcome_id: int
    partition: int
    record_offset: int
    kind: str
    command_id: str
    source: str
    message: bytes

    @property
    def is_first(self) -> bool:
        """Whether its id had not been used before: only then can events follow from it."""
        return self.kind in ("accepted", "rejected")


def judged_commands(connection: psycopg.Connection[Any], order_id: str, *, again: bool) -> list[JudgedCommand]:
    """An order's commands in the order of judging; `again`: also those whose id was used before.

    Raises psycopg.Error.
    """
    columns = "SELECT outcome_id, partition, record_offset, kind, command_id, source, message FROM outcomes "
    with connection.cursor(row_factory=class_row(JudgedCommand), binary=True) as cursor:
        cursor.execute(
            f"{columns} WHERE order_id = %(order)s AND kind IN ('accepted', 'rejected') UNION ALL "
            f"{columns} WHERE order_id = %(order)s AND kind IN ('repeated', 'reused') AND %(again)s "
            "ORDER BY outcome_id",
            {"order": order_id, "again": again},
        )
        return cursor.fetchall()
