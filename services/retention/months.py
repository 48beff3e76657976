"""The months of `outcomes`: each has a table of its own, and old ones are retired whole.

An index of each month keeps a command id from being used twice in it. A command id of an earlier month is looked up,
for the orders that have one: those that began before the month did. Of retired months the events are left, and each
tells the command that it follows from: what changed an order is recognised for ever.
"""

from datetime import date
from typing import Any

import msgspec
import psycopg

from services.eventstore.database import fetch_row, fetch_value


class MonthBegan(Exception):
    """A batch was judged for another month than the one that its outcomes belong in. Nothing was written."""


class Months(msgspec.Struct, frozen=True):
    """The newest month (its first day, UTC), and whether there were any before it."""

    newest: date
    others: bool


class Retired(msgspec.Struct, frozen=True):
    """The last outcome that was retired, and the last event before its end; 0 where none was."""

    outcome_id: int = 0
    event_id: int = 0


RETIRED = "SELECT coalesce(max(last_outcome_id), 0), coalesce(max(last_event_id), 0) FROM outcome_months"
"""SQL: the fields of `Retired`."""


def begun_months(connection: psycopg.Connection[Any]) -> Months:
    """What is appended from now on belongs in the newest, which is begun where it was not there yet.

    To be committed. Raises psycopg.Error.
    """
    fetch_value(connection, "SELECT append_month()")
    return Months(*fetch_row(connection, "SELECT max(month), count(*) > 1 FROM outcome_months"))


def read_retired(connection: psycopg.Connection[Any]) -> Retired:
    """Raises psycopg.Error."""
    return Retired(*fetch_row(connection, RETIRED))
