"""Prints everything that the command line prints. Nothing else in this package writes to the terminal.

Other people wrote the keys, sources, reasons and texts. This module makes sure that they cannot move the cursor, change
colours, reverse or hide the text beside them, or act as Rich's markup.
"""

import sys
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from services.telemetry.printable import printable

_LONGEST_CELL = 200
_GAP = "  "
_NARROWEST = 8
"""The smallest width of a column that folds, however narrow the terminal is."""


class Terminal(Console):
    """Prints text as it is: without markup, codes of emoji or control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Renders a string without control characters. Rich calls this for every string, also for those in tables."""
        return super().render_str(paragraphs(text), **options | {"markup": False, "emoji": False})


def say(*lines: object) -> None:
    """Prints lines to stdout, and flushes it, because stdout may be a pipe."""
    print(*map(printable, lines), sep="\n", flush=True)


def complain(text: object) -> None:
    """Prints a text to stderr. Indents its lines after the first, so that none of them looks like another message."""
    print("\n  ".join(map(printable, str(text).split("\n"))), file=sys.stderr, flush=True)


def write(value: bytes) -> None:
    """Writes bytes to stdout as they are."""
    sys.stdout.buffer.write(value)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Prints labels and values, however long. Indents the lines of a value after the first."""
    for label, value in pairs:
        first, *rest = str(value).split("\n")
        say(f"{label}: {first}", *(f"    {line}" for line in rest))


def table(headings: Sequence[str], rows: Iterable[Iterable[object]], *, fold: Collection[str] = ()) -> None:
    """Prints a table. Columns named in `fold` continue on further lines if the terminal is narrow.

    Rich's own table measures and renders all rows before it prints the first, which takes a minute for 20,000 rows.
    """
    console = Terminal()
    cells = [[_cell(value) for value in row] for row in rows]
    widths = _widths(headings, cells, fold, console.width)
    for line in _lines(console, headings, widths):
        console.print(Text(line, "bold"), soft_wrap=True)
    for row in cells:
        say(*_lines(console, row, widths))


def paragraphs(text: str) -> str:
    """Like `printable`, but keeps line ends. Use it where lines are indented."""
    return "\n".join(map(printable, text.split("\n")))


def styled(*parts: str | tuple[str, str]) -> Text:
    """Returns a text made of parts. A part may be a pair of a text and one of Rich's styles."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((paragraphs(text), style) for text, style in pairs))


def short(instant: str) -> str:
    """Shortens an instant in UTC to seconds, without its offset."""
    return instant[:19].replace("T", " ")


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str]], fold: Collection[str], room: int) -> list[int]:
    """Returns the width of each column. Columns that fold share the space that the others leave."""
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    folding = sorted((n for n, heading in enumerate(headings) if heading in fold), key=widths.__getitem__)
    left = room - len(_GAP) * (len(headings) - 1) - sum(widths) + sum(widths[n] for n in folding)
    for position, n in enumerate(folding):
        share = left // (len(folding) - position)
        widths[n] = min(widths[n], max(share, _NARROWEST))
        left -= widths[n]
    return widths


def _lines(console: Console, row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Formats a row of the table. A cell that is wider than its column has several lines."""
    columns = [
        [cell] if cell_len(cell) <= width else [line.plain for line in Text(cell).wrap(console, width, overflow="fold")]
        for cell, width in zip(row, widths, strict=True)
    ]
    lines = zip_longest(*columns, fillvalue="")
    return [_GAP.join(map(set_cell_size, line, widths)).rstrip() for line in lines]


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    if len(text) > _LONGEST_CELL:
        return f"{printable(text[:_LONGEST_CELL])}… ({len(text):,} characters)"
    return printable(text)
