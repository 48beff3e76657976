"""The numbers of the rules, and nothing else."""

from datetime import UTC, datetime, timedelta

RESPONSE_WINDOW = timedelta(hours=48)
"""How long the other party has to answer (R1, D2, D18): elapsed hours in UTC."""

VERY_LATE_AFTER = timedelta(hours=24)
"""How far past the expected delivery an order is very late (R5, D5)."""

REFUND_PERCENT = 60
"""The largest partial refund, in percent of the original price (R8, D9)."""

_LATEST_DELIVERY = datetime(9999, 1, 1, tzinfo=UTC)


def largest_refund(price: int) -> int:
    """The largest partial refund in minor units: 60% inclusive, exact, in integers (D9). 0 where there is no room."""
    return share(price, REFUND_PERCENT)


def share(price: int, percent: int) -> int:
    """So many percent of a price in minor units, rounded down: 60 percent is the largest refund (D9)."""
    return percent * price // 100


def extended(expected_delivery_at: datetime, days: int) -> datetime:
    """The delivery date plus days (R7). Stops in the year 9999, where dates end."""
    return min(expected_delivery_at, _LATEST_DELIVERY - timedelta(days=days)) + timedelta(days=days)
