"""Prints one order under the terms that it had and under others, side by side."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from services.orders.money import plain_text

from .terminal import Terminal, styled

Json = dict[str, Any]
_INDENT = (0, 0, 0, 4)
_LEFT_OUT = {"dispute_id", "kind", "client_id", "freelancer_id", "message", "comment", "note", "explanation"}


def side_by_side(console: Terminal, order_id: str, steps: Iterable[Json]) -> None:
    """Prints what came of each command beside what would have."""
    console.print(styled((f"Order {order_id}", "bold"), ": as it was, and as it would have been"))
    for step in steps:
        console.print()
        same = step["before"] == step["after"]
        what = step["command"] or ("time passes" if step["command_id"] is None else "a command")
        console.print(styled("=   " if same else ("!   ", "bold yellow"), (what, "bold"), f"  {step['time'] or ''}"))
        if same:
            console.print(Padding(_course(step["before"]), _INDENT))
            continue
        columns = Table.grid(padding=(0, 3), expand=True)
        columns.add_column(ratio=1, overflow="fold")
        columns.add_column(ratio=1, overflow="fold")
        columns.add_row(styled(("before", "dim")), styled(("after", "dim")))
        columns.add_row(_course(step["before"]), _course(step["after"]))
        console.print(Padding(columns, _INDENT))


def _course(course: Json) -> Text:
    lines = [] if course["outcome"] == "accepted" else [f"rejected: {course['outcome']}"]
    for event in course["events"]:
        lines.append(f"#{event['sequence']} {event['event']}, {event['time']}")
        lines += [f"   {line}" for line in _data(event["data"])]
    return styled("\n".join(lines) or "nothing")


def _data(data: Json) -> Iterator[str]:
    for name, value in data.items():
        if name in _LEFT_OUT or value is None:
            continue
        if isinstance(value, dict) and "currency" in value:
            text = plain_text(value)
        elif isinstance(value, dict):
            text = ", ".join(f"{part} {number}" for part, number in value.items() if number is not None)
        else:
            text = str(value)
        yield f"{name.replace('_', ' ')}: {text}"
