"""How the command line shows an order."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.money import plain_text

_COLORS = {"accepted": "green", "auto_accepted": "yellow", "declined": "red", "withdrawn": "dim", "closed": "dim"}


def order(console: Console, page: dict[str, Any]) -> None:
    """The order page."""
    console.print(f"[bold]Order {page['order_id']}[/]  {page['status']}    business time {_short(page['now'])}")
    facts = Table.grid(padding=(0, 2))
    facts.add_row("client", escape(page["client_id"]))
    facts.add_row("freelancer", escape(page["freelancer_id"]))
    facts.add_row("price", plain_text(page["price"]))
    facts.add_row("delivery", _short(page["expected_delivery_at"]) or "no date yet")
    if refund := page["refund"]:
        facts.add_row("refund", f"{plain_text(refund['amount'])}, {refund['state']}")
    if canceled := page["canceled"]:
        due = f", refund due {plain_text(canceled['refund_due'])}" if canceled["refund_due"] else ""
        facts.add_row("canceled", f"{_words(canceled['grounds'])}, by {_words(canceled['initiated_by'])}{due}")
    console.print(facts)
    _disputes(console, page["disputes"])
    if dispute := page["open_dispute"]:
        console.print(
            f"\nOpen: [bold]{_words(dispute['kind'])}[/] of the {dispute['opened_by']}; answer before "
            f"{_short(dispute['respond_by'])} ({_hours(dispute['seconds_left'])} left)"
        )
    for party, actions in page["available_actions"].items():
        _actions(console, party, actions)


def _disputes(console: Console, disputes: list[dict[str, Any]]) -> None:
    if not disputes:
        return
    table = Table(title="Disputes", title_justify="left")
    for column in ("opened", "by", "about", "asks", "settled"):
        table.add_column(column)
    for dispute in disputes:
        settled = dispute["settled_as"]
        table.add_row(
            _short(dispute["opened_at"]),
            dispute["opened_by"],
            _words(dispute["kind"]),
            escape(_request(dispute["request"])),
            f"[{_COLORS[settled]}]{_words(settled)}[/] {_short(dispute['settled_at'])}" if settled else "open",
        )
    console.print(table)


def _actions(console: Console, party: str, actions: list[dict[str, Any]]) -> None:
    console.print(f"\n[bold]What the {party} can do now[/]" + ("" if actions else ": nothing, the order is over"))
    for action in actions:
        about = f" ({_words(action['kind'])})" if action["kind"] else ""
        if action["available"]:
            console.print(f"  [green]+[/] {action['command']}{about}  [dim]{escape(_needs(action['needs']))}[/]")
        else:
            console.print(f"  [dim]-[/] {action['command']}{about}  [dim]{escape(action['why_not'])}[/]")


def _request(request: dict[str, Any]) -> str:
    parts = [
        plain_text(v) if isinstance(v, dict) else f"{v} days" if k == "days" else str(v)
        for k, v in request.items()
        if v
    ]
    return "; ".join(parts)


def _needs(needs: dict[str, Any]) -> str:
    return "; ".join(f"{_words(name)}: {_need(value)}" for name, value in needs.items())


def _need(value: Any) -> str:
    if isinstance(value, list):
        return " | ".join(value)
    if isinstance(value, dict):
        return plain_text(value) if "currency" in value else f"{value['min']}-{value['max']}"
    return str(value)


def _short(instant: str | None) -> str:
    return f"{instant[:10]} {instant[11:16]} UTC" if instant else ""


def _hours(seconds: float) -> str:
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02} min"


def _words(name: str) -> str:
    return name.replace("_", " ")
