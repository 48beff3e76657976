"""The reminders of an open dispute: each is due when a part of the time to answer is left (D20)."""

from datetime import datetime
from typing import Literal

from .policy import HELP_PAGE

Name = Literal["first", "last"]

_PARTS: dict[Name, int] = {"first": 2, "last": 24}
"""The reminders by name: one over this is the part that is left."""

NAMES = {HELP_PAGE.response_hours // part: name for name, part in _PARTS.items()}
"""The reminders by the number that tables keep: the hours that are left under the help page's terms."""

NUMBERS = {name: number for number, name in NAMES.items()}


def due_at(number: int, opened_at: datetime, respond_by: datetime) -> datetime:
    """Returns when a dispute's reminder is due, in business time."""
    return respond_by - (respond_by - opened_at) / _PARTS[NAMES[number]]
