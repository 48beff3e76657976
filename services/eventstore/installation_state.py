"""What the database knows about the installation: its clock, how far each part is, and the last verifications."""

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row

from services.clock import Clock

from .database import ANSWER_WITHIN_SECONDS, connect, fetch_value
from .dead_letters import UNHANDLED

_ORIGIN = "SELECT origin FROM clock"


def read_clock(database_url: str, given: datetime | None, scale: Fraction) -> Clock:
    """Returns the installation's clock. The first start stores the instant at which business time begins.

    `given`, from the environment, takes precedence over the stored instant. Later calls only read, so that users who
    may not write can ask for the time. Raises psycopg.Error.
    """
    now = given or datetime.now(UTC)
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    with connect(database_url, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        if (noted := fetch_value(connection, _ORIGIN)) is None:
            connection.execute("INSERT INTO clock (origin) VALUES (%s) ON CONFLICT DO NOTHING", (now,))
            noted = fetch_value(connection, _ORIGIN)
    return Clock(now if given else noted.astimezone(UTC), scale)


def record_verification(connection: psycopg.Connection[Any], checked: str, differences: int) -> None:
    """Stores the result of `resolution verify`, for metrics. Raises psycopg.Error.

    `checked` names what was verified: `history` or `commands`.
    """
    connection.execute("INSERT INTO verifications (checked, differences) VALUES (%s, %s)", (checked, differences))


class Overview(msgspec.Struct):
    """How far each part of the installation is. Has numbers only, and no order's data."""

    last_event: int
    """The number of the newest event."""
    last_outcome: int
    """The id of the newest outcome."""
    intended: int | None
    """The last outcome that may be on Kafka; None if no relay has noted one yet."""
    checkpointed: int | None
    """The last event that a checkpoint covers; None if there are no checkpoints."""
    deadlines: int
    """How many deadlines the timer remembers."""
    overdue: int
    """How many of these deadlines are over."""
    most_overdue: datetime | None
    """The earliest deadline that is over, in business time."""
    parked_orders: int
    """How many orders are parked."""
    parked_commands: int
    """How many commands these orders have."""
    dead_letters: int
    """How many dead letters no operator has handled."""
    read_models: dict[str, int]
    """For each read model: the last event that it has."""
    positions: dict[str, dict[int, int]]
    """By consumer and partition: the next offset on the topic."""
    verifications: list[tuple[str, int, datetime]]
    """The last verification of each kind: its name, its number of differences, and when it ended."""


def overview(connection: psycopg.Connection[Any], now: datetime) -> Overview:
    """Returns how far each part is at the business time `now`. Raises psycopg.Error."""
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
    positions: dict[str, dict[int, int]] = {}
    for consumer, partition, offset in connection.execute(
        "SELECT consumer, partition, next_offset - base FROM positions"
    ):
        positions.setdefault(consumer, {})[partition] = offset
    return positions
