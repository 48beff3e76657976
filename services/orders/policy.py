"""The terms of an order, and what is computed from them (D20)."""

from datetime import UTC, datetime, timedelta

import msgspec
from resolution_contracts import terms as contract


class Terms(msgspec.Struct, frozen=True, gc=False):
    """The terms of an order: they come with its registration, and never change."""

    response_hours: int
    """How long the other party has to answer: elapsed hours in UTC (R1, D2, D18)."""
    very_late_after_hours: int
    """How long after the expected delivery an order is very late (R5, D5)."""
    longest_extension_days: int
    """The longest delivery extension of one request (R7). 0: no extension."""
    largest_refund_percent: int
    """The largest partial refund, in percent of the original price (R8, D9). 0: no refund."""
    name: str | None
    """What the marketplace calls these terms. Decides nothing."""

    @property
    def response_window(self) -> timedelta:
        """How long the other party has to answer (R1)."""
        return timedelta(hours=self.response_hours)

    @property
    def very_late_after(self) -> timedelta:
        """How long after the expected delivery an order is very late (R5)."""
        return timedelta(hours=self.very_late_after_hours)

    def largest_refund(self, price: int) -> int:
        """Returns the largest partial refund in minor units, exact, in integers (D9). 0 if there is room for none."""
        return share(price, self.largest_refund_percent)


def terms_of(given: contract.Terms | None) -> Terms:
    """Returns the complete terms of a registration. What is missing is as on the help page."""
    return Terms(**(given or contract.Terms()).model_dump())


HELP_PAGE = terms_of(None)
"""The terms of orders that were registered without any."""

_LATEST_DELIVERY = datetime(9999, 1, 1, tzinfo=UTC)


def share(price: int, percent: int) -> int:
    """Returns a percentage of a price, in minor units and rounded down (D9)."""
    return percent * price // 100


def extended(expected_delivery_at: datetime, days: int) -> datetime:
    """Returns the delivery date moved by `days` (R7), at most to the start of the year 9999, where dates end."""
    return min(expected_delivery_at, _LATEST_DELIVERY - timedelta(days=days)) + timedelta(days=days)
