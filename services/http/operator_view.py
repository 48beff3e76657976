"""The state of the installation, as operators see it on their page."""

from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import psycopg

from projections import READ_MODELS
from services.eventstore.dead_letters import UNHANDLED
from services.eventstore.installation_state import overview

_MAX_LINES = 20
_COUNTS = ("events", "deadlines", "overdue", "parked_orders", "dead")


def look(connection: psycopg.Connection[Any], now: datetime) -> dict[str, Any]:
    """Returns a shard's state: lag of the read models, overdue deadlines, parked orders, dead letters to handle.

    Raises psycopg.Error.
    """
    counts = overview(connection, now)
    behind = {name: max(0, counts.last_event - counts.read_models.get(name, 0)) for name in READ_MODELS}
    parked = connection.execute(
        "SELECT order_id, count(*), max(why), min(parked_at) FROM parked_commands "
        "GROUP BY order_id ORDER BY 4 LIMIT %s",
        (_MAX_LINES,),
    )
    letters = connection.execute(
        f"SELECT partition, record_offset FROM {UNHANDLED} ORDER BY outcome_id DESC LIMIT %s",  # noqa: S608 (ours)
        (_MAX_LINES,),
    )
    return {
        "events": counts.last_event,
        "read_models": behind,
        "deadlines": counts.deadlines,
        "overdue": counts.overdue,
        "parked_orders": counts.parked_orders,
        "parked": [
            {"order_id": order_id, "commands": commands, "why": why, "since": since}
            for order_id, commands, why, since in parked
        ],
        "dead": counts.dead_letters,
        "dead_letters": [{"partition": partition, "offset": offset} for partition, offset in letters],
    }


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merges the states of all shards into one."""
    sums = {name: sum(part[name] for part in parts) for name in _COUNTS}
    parked = sorted(chain.from_iterable(part["parked"] for part in parts), key=lambda order: order["since"])
    letters = list(chain.from_iterable(part["dead_letters"] for part in parts))
    behind = {name: sum(part["read_models"][name] for part in parts) for name in READ_MODELS}
    return sums | {"read_models": behind, "parked": parked[:_MAX_LINES], "dead_letters": letters[:_MAX_LINES]}


def positions(connection: psycopg.Connection[Any]) -> dict[int, int]:
    """Returns the commands role's stored position in each partition, as an offset of the topic itself."""
    rows = connection.execute("SELECT partition, next_offset - base FROM positions WHERE consumer = 'commands'")
    return dict(rows.fetchall())
