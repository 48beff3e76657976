"""Judges a command and applies its events, without records and outcomes."""

from datetime import datetime

from resolution_contracts import Command

from services.orders import Order, Rejected
from services.orders.decide import Decision, decide
from services.orders.evolve import evolve_all


def carry_out(order: Order, command: Command | Rejected, command_id: str, now: datetime) -> Decision:
    """Judges a command at `now`, or at the time of the order's last event if that is later, and applies its events."""
    decision = decide(order, command, command_id, order.business_time(now))
    evolve_all(order, decision.events)
    return decision
