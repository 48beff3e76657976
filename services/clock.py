"""Business time: real time, or a faster one for demos and tests. Every rule keeps its 48 hours."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Clock:
    """Turns real instants into business ones and back, exactly (integers of microseconds, rounded down and up).

    At `origin`, a real instant in whole milliseconds, business time equals real time; from then on it runs `scale`
    times as fast.
    """

    origin: datetime
    scale: Fraction = Fraction(1)

    def of_record(self, timestamp_ms: int) -> datetime:
        """The business time of a record, from its LogAppendTime in milliseconds since the epoch."""
        return self.business(_EPOCH + timedelta(milliseconds=timestamp_ms))

    def business(self, real: datetime) -> datetime:
        """The business time at a real instant."""
        if self.scale == 1:
            return real
        elapsed = (real - self.origin) // _MICROSECOND
        return self.origin + timedelta(microseconds=elapsed * self.scale.numerator // self.scale.denominator)

    def real(self, business: datetime) -> datetime:
        """The first real instant, in whole milliseconds like LogAppendTime, at which `business` is reached."""
        ahead = (business - self.origin) // _MICROSECOND
        elapsed_ms = -(-ahead * self.scale.denominator // (self.scale.numerator * 1000))
        return self.origin + timedelta(milliseconds=elapsed_ms)

    def now(self) -> datetime:
        """Business time by this machine's clock. Good for views and timers; commands are judged by the broker's."""
        return self.business(datetime.now(UTC))
