"""Prints an order page on the command line."""

from typing import Any

from rich.padding import Padding
from rich.table import Table

from services.orders.money import plain_text

from .terminal import Terminal, styled

_COLORS = {"accepted": "green", "auto_accepted": "yellow", "declined": "red", "withdrawn": "dim", "closed": "dim"}


def order(console: Terminal, page: dict[str, Any]) -> None:
    """Prints the order page."""
    title = (f"Order {page['order_id']}", "bold")
    console.print(styled(title, f"  {page['status']}    business time {_short(page['now'])}"))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("client", page["client_id"])
    facts.add_row("freelancer", page["freelancer_id"])
    facts.add_row("price", plain_text(page["price"]))
    facts.add_row("delivery", _short(page["expected_delivery_at"]) or "no date yet")
    facts.add_row("terms", _terms(page["terms"]))
    if refund := page["refund"]:
        facts.add_row("refund", f"{plain_text(refund['amount'])}, {refund['state']}")
    if canceled := page["canceled"]:
        due = f", refund due {plain_text(canceled['refund_due'])}" if canceled["refund_due"] else ""
        facts.add_row("canceled", f"{_words(canceled['grounds'])}, by {_words(canceled['initiated_by'])}{due}")
    console.print(facts)
    _disputes(console, page["disputes"])
    if dispute := page["open_dispute"]:
        console.print()
        console.print(
            styled(
                "Open: ",
                (_words(dispute["kind"]), "bold"),
                f" of the {dispute['opened_by']}; answer before {_short(dispute['respond_by'])} "
                f"({_hours(dispute['seconds_left'])} left)",
            )
        )
    for party, actions in page["available_actions"].items():
        _actions(console, party, actions)


def _terms(terms: dict[str, Any]) -> str:
    name = f"{terms['name']}: " if terms["name"] else ""
    return (
        f"{name}{terms['response_hours']} h to answer, very late after {terms['very_late_after_hours']} h, "
        f"at most {terms['longest_extension_days']} days and {terms['largest_refund_percent']}% back"
    )


def _disputes(console: Terminal, disputes: list[dict[str, Any]]) -> None:
    if disputes:
        console.print()
        console.print(styled(("Disputes", "bold")))
    for dispute in disputes:
        what = f"  {_short(dispute['opened_at'])}  {_words(dispute['kind'])} of the {dispute['opened_by']}: "
        if settled := dispute["settled_as"]:
            state = styled((_words(settled), _COLORS[settled]), f" {_short(dispute['settled_at'])}")
        else:
            state = styled("open")
        console.print(styled(what) + state)
        console.print(Padding(styled(_request(dispute["request"])), (0, 0, 0, 6)))


def _actions(console: Terminal, party: str, actions: list[dict[str, Any]]) -> None:
    console.print()
    what = (f"What the {party} can do now", "bold")
    console.print(styled(what, "" if actions else ": nothing, the order is over"))
    for action in actions:
        about = f" ({_words(action['kind'])})" if action["kind"] else ""
        sign = ("+", "green") if action["available"] else ("-", "dim")
        more = _needs(action["needs"]) if action["available"] else action["why_not"]
        console.print(styled("  ", sign, f" {action['command']}{about}  ", (more, "dim")))


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
