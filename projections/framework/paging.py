"""Lists in pages. A list may lie in several databases: each gives a part of the page, and the parts make one page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

from resolution_contracts.values import ORDER_ID

CURSOR = rf"^\d{{1,16}}_{ORDER_ID}$"
"""What a cursor looks like. Every text that looks so is one."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Cursor(NamedTuple):
    """A line's place in a list: the instant that the list is ordered by, then the order id."""

    at: datetime
    order_id: str

    def __str__(self) -> str:
        return f"{(self.at - _EPOCH) // _MICROSECOND}_{self.order_id}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Takes what looks like `CURSOR`."""
        assert re.match(CURSOR, text)
        microseconds, _, order_id = text.partition("_")
        return cls(_EPOCH + int(microseconds) * _MICROSECOND, order_id)


@dataclass(frozen=True)
class Part:
    """What one database has of a page."""

    lines: list[tuple[Cursor, dict[str, Any]]]
    """In the list's order, one more than the page takes, so that it shows whether another page follows."""
    total: int
    """How many lines the whole list has in this database."""
    earlier: int
    """How many of them come before the page."""


@dataclass(frozen=True)
class Page:
    """Some lines of a list."""

    lines: list[dict[str, Any]]
    total: int
    """How many lines the whole list has."""
    earlier: int
    """How many of them come before these."""
    next: str | None
    """The cursor of the next page; None on the last."""


def merged(parts: Sequence[Part], size: int, *, newest_first: bool = False) -> Page:
    """One page of `size` lines from what each database has of it."""
    lines = sorted(chain.from_iterable(part.lines for part in parts), key=lambda line: line[0], reverse=newest_first)
    shown = lines[:size]
    return Page(
        [line for _, line in shown],
        sum(part.total for part in parts),
        sum(part.earlier for part in parts),
        str(shown[-1][0]) if len(lines) > size else None,
    )
