"""What came out, and what would have: counts and amounts."""

from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec

from services.orders import events as e


class Tally(msgspec.Struct):
    """Counts and amounts of one course of events. Amounts are in minor units, by currency."""

    disputes: Counter[str] = msgspec.field(default_factory=Counter)
    """Disputes that were opened, by kind."""
    settled: Counter[str] = msgspec.field(default_factory=Counter)
    """Disputes that ended, by how."""
    answers_too_late: int = 0
    """Answers and withdrawals that came when the dispute had been accepted automatically."""
    extension_days: int = 0
    """Days that were added to delivery dates."""
    refunds: Counter[str] = msgspec.field(default_factory=Counter)
    """Partial refunds that were granted, by currency."""
    refunded: Counter[str] = msgspec.field(default_factory=Counter)
    """The amounts of these refunds."""
    cancellations: Counter[str] = msgspec.field(default_factory=Counter)
    """Canceled orders, by their grounds."""
    refund_due: Counter[str] = msgspec.field(default_factory=Counter)
    """What cancellations pay back."""
    auto_accepted_by_day: Counter[date] = msgspec.field(default_factory=Counter)
    """Disputes that were accepted automatically, by the UTC day of their deadline."""

    def add(self, event: e.Event) -> None:
        """Counts an event."""
        if (count := _COUNT.get(type(event))) is not None:
            count(self, event)

    def add_all(self, other: "Tally") -> None:
        """Adds another tally."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, Any]:
        """Returns all but the days, for JSON."""
        fields = msgspec.to_builtins(msgspec.structs.asdict(self), str_keys=True)
        del fields["auto_accepted_by_day"]
        return dict(fields)


def _opened(tally: Tally, event: e.DisputeOpened) -> None:
    tally.disputes[event.kind] += 1


def _settled(tally: Tally, event: e.Settling) -> None:
    tally.settled[e.SETTLED_AS[type(event)]] += 1
    if isinstance(event, e.AutoAccepted):
        tally.auto_accepted_by_day[event.deadline.date()] += 1


def _extended(tally: Tally, event: e.DeliveryDateExtended) -> None:
    tally.extension_days += event.days


def _granted(tally: Tally, event: e.PartialRefundGranted) -> None:
    tally.refunds[event.amount.currency] += 1
    tally.refunded[event.amount.currency] += event.amount.amount


def _canceled(tally: Tally, event: e.OrderCanceled) -> None:
    tally.cancellations[event.grounds] += 1
    if event.refund_due is not None:
        tally.refund_due[event.refund_due.currency] += event.refund_due.amount


_COUNT: dict[type[e.Event], Callable[[Tally, Any], None]] = {
    e.DisputeOpened: _opened,
    **dict.fromkeys(e.SETTLED_AS, _settled),
    e.DeliveryDateExtended: _extended,
    e.PartialRefundGranted: _granted,
    e.OrderCanceled: _canceled,
}
