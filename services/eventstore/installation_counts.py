"""How things stand, for those who watch over an installation: numbers only, nothing of any order."""

from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row

from .dead_letters import UNHANDLED


class Overview(msgspec.Struct):
    """`positions`: by consumer and partition, the next offset on the topic. `most_overdue`: business time. Each read
    model's number is that of the last event it has. `verifications`: the last of each check, with its differences and
    its end. `intended`: the last outcome that may be on Kafka, None before a relay has noted one. `checkpointed`: the
    last event that a checkpoint covers, None where there are no checkpoints."""

    last_event: int
    last_outcome: int
    intended: int | None
    checkpointed: int | None
    deadlines: int
    overdue: int
    most_overdue: datetime | None
    parked_orders: int
    parked_commands: int
    dead_letters: int
    read_models: dict[str, int]
    positions: dict[str, dict[int, int]]
    verifications: list[tuple[str, int, datetime]]


def overview(connection: psycopg.Connection[Any], now: datetime) -> Overview:
    """As of the business time `now`. Raises psycopg.Error."""
    with connection.cursor(row_factory=dict_row) as cursor:
        [row] = cursor.execute(
            "SELECT (SELECT coalesce(max(notification_id), 0) FROM order_events) AS last_event, "  # noqa: S608 (ours)
            "(SELECT coalesce(max(outcome_id), 0) FROM outcomes) AS last_outcome, "
            "(SELECT intended_outcome_id FROM publishing) AS intended, "
            "(SELECT last_event_id FROM checkpoints WHERE published > 0) AS checkpointed, "
            "(SELECT count(*) FROM deadlines) AS deadlines, "
            "(SELECT count(*) FROM deadlines WHERE due_at < %(now)s) AS overdue, "
            "(SELECT min(due_at) FROM deadlines WHERE due_at < %(now)s) AS most_overdue, "
            "(SELECT count(DISTINCT order_id) FROM parked_commands) AS parked_orders, "
            "(SELECT count(*) FROM parked_commands) AS parked_commands, "
            f"(SELECT count(*) FROM {UNHANDLED}) AS dead_letters",
            {"now": now},
        )
    return Overview(
        **row,
        read_models=_read_models(connection),
        positions=_positions(connection),
        verifications=connection.execute(
            "SELECT DISTINCT ON (checked) checked, differences, finished_at FROM verifications "
            "ORDER BY checked, finished_at DESC"
        ).fetchall(),
    )


def _read_models(connection: psycopg.Connection[Any]) -> dict[str, int]:
    rows = connection.execute("SELECT application_name, max(notification_id) FROM projection_tracking GROUP BY 1")
    return dict(rows.fetchall())


def _positions(connection: psycopg.Connection[Any]) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {}
    for consumer, partition, offset in connection.execute(
        "SELECT consumer, partition, next_offset - base FROM positions"
    ):
        found.setdefault(consumer, {})[partition] = offset
    return found
