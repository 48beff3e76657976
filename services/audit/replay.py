"""Replays an order: each event with its cause, the state after it, and what changed in the state.

This is for auditors, so it shows confidential fields (D16).
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from resolution_contracts.values import SettledAs, format_instant

from services.eventstore.application import OrderStore
from services.eventstore.outcomes import StoredOutcome
from services.failures import Failure
from services.judging.outcomes import OutcomeKind
from services.orders import Order
from services.orders import events as e
from services.orders.evolve import evolve

Json = dict[str, Any]


class NoHistory(Failure):
    """The order has no event up to there, or its stored events cannot be replayed. The text says which."""


def replay(
    store: OrderStore, order_id: str, *, as_of: datetime | None = None, at: int | None = None, commands: bool = False
) -> Iterator[Json]:
    """Yields each event with the state after it, oldest first, up to sequence `at` or business time `as_of`.

    With `commands`, also yields commands without an event of their own, in the order of judging: they have `command`,
    `outcome`, `code` and `message` instead of `event`. Yields nothing for an order that nobody registered. Raises the
    library's MapperDeserialisationError for an event that this version cannot read, and ValueError for a gap.
    """
    judged = store.outcomes(order_id, repeats=commands)
    steps = _events(store, order_id, judged, as_of, at)
    return _with_commands(steps, judged, as_of, at) if commands else steps


def changes(before: Json, after: Json, path: str = "") -> dict[str, Json]:
    """Returns what differs between two states: for each field's path, with dots, the values before and after."""
    found: dict[str, Json] = {}
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= changes(old, new, f"{path}{name}.")
        elif old != new:
            found[path + name] = {"before": old, "after": new}
    return found


# --- events ---


def _events(
    store: OrderStore, order_id: str, judged: Sequence[StoredOutcome], as_of: datetime | None, at: int | None
) -> Iterator[Json]:
    causes = {command.command_id: command for command in judged if command.kind.is_first_use}
    order = Order(id=order_id)
    before = _state(order)
    for event in store.history(order_id, at):
        if as_of is not None and event.timestamp > as_of:
            return
        evolve(order, event)
        state = _state(order)
        yield {
            "sequence": event.originator_version,
            "event": type(event).__name__,
            "time": format_instant(event.timestamp),
            "command_id": event.command_id,
            "data": _data(event),
            "state": state,
            "cause": _cause(order, event, causes.get(event.command_id)),
            "changed": changes(before, state),
        }
        before = state


def _data(event: e.Event) -> Json:
    known = {"order_id", "sequence", "time", "command_id"}
    return {name: value for name, value in msgspec.to_builtins(event).items() if name not in known}


def _state(order: Order) -> Json:
    dispute = order.open_dispute
    return {
        "status": order.status,
        "expected_delivery_at": order.expected_delivery_at and format_instant(order.expected_delivery_at),
        "open_dispute": dispute
        and {
            "dispute_id": dispute.dispute_id,
            "kind": dispute.kind,
            "opened_by": dispute.opened_by,
            "respond_by": format_instant(dispute.respond_by),
        },
        "settled_disputes": {dispute_id: settled.settled_as for dispute_id, settled in order.settled.items()},
        "refund": order.refund
        and {
            "refund_id": order.refund.refund_id,
            "amount": msgspec.to_builtins(order.refund.amount),
            "processed": order.refund_processed,
        },
    }


# --- causes ---

_UNKNOWN = dict.fromkeys(("command", "source", "partition", "offset", "time", "outcome", "code", "message", "details"))


def _cause(order: Order, event: e.Event, command: StoredOutcome | None) -> Json:
    """Returns the command that caused the event. Fields are null if the command's outcome is not stored."""
    decided_by = "deadline" if _decided_by_deadline(order, event) else "command"
    known = _UNKNOWN if command is None else _command(command)
    return {"decided_by": decided_by, "command_id": event.command_id} | known


def _decided_by_deadline(order: Order, event: e.Event) -> bool:
    """Whether the deadline, not the command, decided the event: an auto-acceptance or its consequence (D3)."""
    match event:
        case e.AutoAccepted():
            return True
        case e.OrderCanceled(dispute_id=dispute_id) | e.DeliveryDateExtended(dispute_id=dispute_id):
            pass
        case e.PartialRefundGranted(refund_id=dispute_id):
            pass
        case _:
            return False
    settled = order.settled.get(dispute_id or "")
    return settled is not None and settled.settled_as is SettledAs.AUTO_ACCEPTED


def _command(command: StoredOutcome) -> Json:
    """Returns a command for the output. `time` is the business time of judging, which a repeat does not have."""
    envelope = msgspec.json.decode(command.message or b"")
    data = envelope["data"]
    return {
        "command": data["command"],
        "command_id": command.command_id,
        "source": command.source,
        "partition": command.partition,
        "offset": command.record_offset,
        "time": None if command.kind is OutcomeKind.REPEATED else envelope["time"],
        "outcome": command.kind,
        "code": data.get("code"),
        "message": data.get("message"),
        "details": data.get("details"),
    }


# --- commands that changed nothing ---


def _with_commands(
    steps: Iterator[Json], judged: Sequence[StoredOutcome], as_of: datetime | None, at: int | None
) -> Iterator[Json]:
    """Behind the last event only where nothing limits it, or for what was judged by `as_of`."""
    places = {command.command_id: command.outcome_id for command in judged if command.kind.is_first_use}
    idle = [command for command in judged if not _has_events_of_its_own(command)]
    idle.reverse()
    for step in steps:
        place = places.get(step["command_id"], 0)
        while idle and idle[-1].outcome_id < place:
            yield _command(idle.pop())
        yield step
    if at is not None:
        return
    for found in map(_command, reversed(idle)):
        if as_of is None or (found["time"] and datetime.fromisoformat(found["time"]) <= as_of):
            yield found


def _has_events_of_its_own(command: StoredOutcome) -> bool:
    """Whether the command itself caused events. The events of a rejected command were decided by a deadline."""
    return command.kind is OutcomeKind.ACCEPTED and bool(msgspec.json.decode(command.message or b"")["data"]["events"])
