"""Business time: equal to real time, or faster for demos and tests. Hours of rules and terms are of business time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Clock:
    """Converts real time to business time and back, in integers of microseconds.

    At `origin`, a real instant in whole milliseconds, both are equal. From then on, business time runs `scale` times as
    fast.
    """

    origin: datetime
    scale: Fraction = Fraction(1)

    def of_record(self, timestamp_ms: int) -> datetime:
        """Returns the business time of a record, given its LogAppendTime in milliseconds since 1970."""
        return self.business(_EPOCH + timedelta(milliseconds=timestamp_ms))

    def business(self, real: datetime) -> datetime:
        """Returns the business time at a real instant, rounded down to the microsecond."""
        if self.scale == 1:
            return real
        elapsed = (real - self.origin) // _MICROSECOND
        return self.origin + timedelta(microseconds=elapsed * self.scale.numerator // self.scale.denominator)

    def real(self, business: datetime) -> datetime:
        """Returns the first real instant, in whole milliseconds like LogAppendTime, at which `business` is reached."""
        ahead = (business - self.origin) // _MICROSECOND
        elapsed_ms = -(-ahead * self.scale.denominator // (self.scale.numerator * 1000))
        return self.origin + timedelta(milliseconds=elapsed_ms)

    def now(self) -> datetime:
        """Returns the business time by this machine's clock. For views and timers only: commands have the broker's."""
        return self.business(datetime.now(UTC))
