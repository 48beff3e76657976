"""The numbers in the rules, and what is computed from them."""

from datetime import UTC, datetime, timedelta

RESPONSE_WINDOW = timedelta(hours=48)
"""How long the other party has to answer: elapsed hours in UTC (R1, D2, D18)."""

VERY_LATE_AFTER = timedelta(hours=24)
"""How long after the expected delivery an order is very late (R5, D5)."""

REFUND_PERCENT = 60
"""The largest partial refund, in percent of the original price (R8, D9)."""

_LATEST_DELIVERY = datetime(9999, 1, 1, tzinfo=UTC)


def largest_refund(price: int) -> int:
    """Returns the largest partial refund in minor units: 60%, exact, in integers (D9). 0 if the price is too small."""
    return share(price, REFUND_PERCENT)


def share(price: int, percent: int) -> int:
    """Returns a percentage of a price, in minor units and rounded down, so that 60 percent is within the limit (D9)."""
    return percent * price // 100


def extended(expected_delivery_at: datetime, days: int) -> datetime:
    """Returns the delivery date moved by `days` (R7), at most to the start of the year 9999, where dates end."""
    return min(expected_delivery_at, _LATEST_DELIVERY - timedelta(days=days)) + timedelta(days=days)
