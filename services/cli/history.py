"""Prints an order's history: a block for each event, with its cause, its data, and what changed.

On a terminal, changes have colours. They are readable without colours, too: `status: in progress -> canceled`.
"""

from collections.abc import Iterable
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from services.orders.money import plain_text
from services.telemetry.printable import printable

from .terminal import Terminal, styled

Json = dict[str, Any]
_INDENT = (0, 0, 0, 4)


def history(console: Terminal, order_id: str, steps: Iterable[Json]) -> None:
    """Prints the steps of a history. A step is an event, or a command that changed nothing."""
    console.print(styled((f"Order {order_id}", "bold")))
    for step in steps:
        console.print()
        _event(console, step) if "event" in step else _command(console, step)


def _event(console: Terminal, step: Json) -> None:
    console.print(styled((f"#{step['sequence']}  {step['event']}", "bold"), f"  {step['time']}"))
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    lines.add_row("cause", _cause(step["cause"]))
    for label, name, value in _labelled("data", step["data"]):
        lines.add_row(label, f"{name}: {_value(value)}")
    for label, name, change in _labelled("changed", step["changed"]):
        before, after = (_value(change[when]) for when in ("before", "after"))
        lines.add_row(label, styled(f"{name}: ", (before, "red"), " -> ", (after, "bold green")))
    if not step["changed"]:
        lines.add_row("changed", "nothing in the order's state")
    lines.add_row("state", _state(step["state"]))
    console.print(Padding(lines, _INDENT))


def _state(state: Json) -> str:
    dispute, refund = state["open_dispute"], state["refund"]
    parts = [state["status"], f"delivery {state['expected_delivery_at'] or 'without a date'}"]
    parts.append(f"{dispute['kind']} of the {dispute['opened_by']} open" if dispute else "no dispute open")
    if refund:
        parts.append(f"refund {_value(refund['amount'])}, {'processed' if refund['processed'] else 'processing'}")
    return "; ".join(parts)


def _cause(cause: Json) -> Text:
    command = _sent(cause)
    if cause["decided_by"] == "command":
        return styled(command)
    # Accepted and auto-accepted are never mixed up (D17): the command only made the service look at the clock.
    decided = ("the deadline, not a command: nobody had answered by then", "yellow")
    return styled(decided, "\nnoticed when this came: ", command)


def _sent(command: Json) -> str:
    if command["command"] is None:
        return f"command {command['command_id']}, whose outcome is not stored"
    outcome = f", {command['outcome']}: {command['code']}" if command["code"] else ""
    return (
        f"{command['command']} from {printable(command['source'])}{outcome}\n"
        f"command {command['command_id']}, partition {command['partition']}, offset {command['offset']}"
    )


_ANSWERS = {
    "accepted": "accepted, though there was nothing to change",
    "repeated": "sent again: it got its first outcome again, and changed nothing",
}


def _command(console: Terminal, command: Json) -> None:
    answer = _ANSWERS.get(command["outcome"]) or f"rejected: {command['code']}"
    time = f"  {command['time']}" if command["time"] else ""
    console.print(styled("-   ", (command["command"], "bold"), f", {answer}{time}"))
    lines = [_sent(command | {"code": None})]
    if command["message"] and command["outcome"] != "repeated":
        lines.insert(0, command["message"])
    console.print(Padding(styled("\n".join(lines)), _INDENT))


def _labelled(label: str, fields: Json) -> Iterable[tuple[str, str, Any]]:
    """Yields label, name and value of each field. Only the first one has the label."""
    for number, (name, value) in enumerate(fields.items()):
        yield "" if number else label, name, value


def _value(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case {"amount": int(), "currency": str()}:
            return plain_text(value)
        case {"kind": kind, "opened_by": opened_by, "respond_by": respond_by}:
            return f"{kind} of the {opened_by}, to be answered before {respond_by}"
        case dict():
            return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items())
        case _:
            return str(value)
