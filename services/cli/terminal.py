"""All that the command line prints. Nothing else in this package writes to the terminal.

Keys, sources, reasons and texts were written by others. Here they cannot move the cursor, change colours, reverse or
hide what stands beside them, or count as Rich's markup.
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
"""A column that folds has as many characters at least, however narrow the terminal is."""


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
    """Prints a table. Columns named in `fold` continue on further lines if the terminal is narrow.

    Rich's own table measures and renders all rows before it prints the first; with 20,000 that takes a minute.
    """
    console = Terminal()
    cells = [[_cell(value) for value in row] for row in rows]
    widths = _widths(headings, cells, fold, console.width)
    for line in _lines(console, headings, widths):
        console.print(Text(line, "bold"), soft_wrap=True)
    for row in cells:
        say(*_lines(console, row, widths))


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


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str]], fold: Collection[str], room: int) -> list[int]:
    """What each column gets. Those that fold share what the others leave; one that needs less leaves it to the rest."""
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    folding = sorted((n for n, heading in enumerate(headings) if heading in fold), key=widths.__getitem__)
    left = room - len(_GAP) * (len(headings) - 1) - sum(widths) + sum(widths[n] for n in folding)
    for position, n in enumerate(folding):
        share = left // (len(folding) - position)
        widths[n] = min(widths[n], max(share, _NARROWEST))
        left -= widths[n]
    return widths


def _lines(console: Console, row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row of the table. A cell that is wider than its column has several lines."""
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
