"""All that the command line prints. Nothing else in this package writes to the terminal.

Keys, sources, reasons and texts were written by others. Here they cannot move the cursor, change colours, reverse or
hide what stands beside them, or count as Rich's markup.
"""

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.telemetry.printable import printable

_LONGEST_CELL = 200


class Terminal(Console):
    """Prints text as it is: without markup, codes of emoji or control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Rich's, for every string that is printed or stands in a table."""
        return super().render_str(paragraphs(text), **options | {"markup": False, "emoji": False})


def say(*lines: object) -> None:
    """Prints lines to stdout at once, also where that is a pipe."""
    print(*map(printable, lines), sep="\n", flush=True)


def complain(text: object) -> None:
    """Prints a text to stderr. Its lines after the first are indented, so that none looks like another message."""
    print("\n  ".join(map(printable, str(text).split("\n"))), file=sys.stderr, flush=True)


def write(value: bytes) -> None:
    """Writes bytes to stdout as they are."""
    sys.stdout.buffer.write(value)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Prints labels and values, however long. The lines of a value after the first are indented."""
    for label, value in pairs:
        first, *rest = str(value).split("\n")
        say(f"{label}: {first}", *(f"    {line}" for line in rest))


def table(headings: Sequence[str], rows: Iterable[Iterable[object]], *, fold: Collection[str] = ()) -> None:
    """Prints a table. Columns named in `fold` continue on further lines if the terminal is narrow."""
    found = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        found.add_column(heading, overflow="fold", no_wrap=heading not in fold)
    for row in rows:
        found.add_row(*map(_cell, row))
    Terminal().print(found)


def paragraphs(text: str) -> str:
    """Like `printable`, but keeps the ends of lines: for a place where they are indented."""
    return "\n".join(map(printable, text.split("\n")))


def styled(*parts: str | tuple[str, str]) -> Text:
    """Returns a text of parts, each with a style of Rich if it is a pair."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((paragraphs(text), style) for text, style in pairs))


def short(instant: str) -> str:
    """An instant of the service to the second, without its offset, which is UTC."""
    return instant[:19].replace("T", " ")


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    if len(text) > _LONGEST_CELL:
        return f"{printable(text[:_LONGEST_CELL])}… ({len(text):,} characters)"
    return printable(text)
