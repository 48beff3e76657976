"""Divides lists into pages. Each database returns its part of a page, and the parts are merged."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

from resolution_contracts.values import ORDER_ID

CURSOR = rf"^\d{{1,16}}_{ORDER_ID}$"
"""The pattern of a page cursor. Every text that matches is a valid cursor."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Cursor(NamedTuple):
    """A page cursor: a line's position in a list, which is sorted by an instant and then by order id."""

    at: datetime
    order_id: str

    def __str__(self) -> str:
        return f"{(self.at - _EPOCH) // _MICROSECOND}_{self.order_id}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Parses a text that matches `CURSOR`."""
        assert re.match(CURSOR, text)
        microseconds, _, order_id = text.partition("_")
        return cls(_EPOCH + int(microseconds) * _MICROSECOND, order_id)


@dataclass(frozen=True)
class Part:
    """One database's part of a page."""

    lines: list[tuple[Cursor, dict[str, Any]]]
    """In the list's order. One line more than the page takes shows that another page follows."""
    total: int
    """The number of lines of the whole list in this database."""
    earlier: int
    """How many of these lines come before the page."""


@dataclass(frozen=True)
class Page:
    """One page of a list."""

    lines: list[dict[str, Any]]
    """The lines of this page, in the order of the list."""
    total: int
    """The number of lines of the whole list."""
    earlier: int
    """How many lines come before this page."""
    next: str | None
    """The cursor of the next page, or None on the last page."""


def merged(parts: Sequence[Part], size: int, *, newest_first: bool = False) -> Page:
    """Merges the parts of all databases into one page of at most `size` lines."""
    lines = sorted(chain.from_iterable(part.lines for part in parts), key=lambda line: line[0], reverse=newest_first)
    shown = lines[:size]
    return Page(
        [line for _, line in shown],
        sum(part.total for part in parts),
        sum(part.earlier for part in parts),
        str(shown[-1][0]) if len(lines) > size else None,
    )
