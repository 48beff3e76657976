"""The bars: what the service has to reach beside a peer, or beside itself, in one run."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.rounds import Result


@dataclass(frozen=True)
class Bar:
    """A figure of each round, and the bar that their median has to reach."""

    measure: str
    rounds: Sequence[float]
    bar: float
    unit: str = "x"
    at_most: bool = True
    """Whether the median must not be above the bar, instead of not below it."""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def holds(self) -> bool:
        return self.median <= self.bar if self.at_most else self.median >= self.bar

    def row(self) -> tuple[str, str, str, str]:
        """Formats the bar for people: the measure, its figures, the bar, and whether it holds."""
        figures = f"{self.median:.2f} {self.unit}"
        if len(self.rounds) > 1:
            figures += f" ({min(self.rounds):.2f} to {max(self.rounds):.2f})"
        words = "at most" if self.at_most else "at least"
        return self.measure, figures, f"{words} {self.bar:g} {self.unit}", "holds" if self.holds else "missed"


def bars(result: Result) -> list[Bar]:
    """Returns the bars of the measurements that were made."""
    return [bar for name, of in _BARS.items() if name in result for bar in of(result[name], result)]


def _beside_streams(found: Result, _: Result) -> Iterator[Bar]:
    if "skipped" in found:
        return
    for rate, p50, p99 in (("100", 0.6, 0.8), ("1000", 1.0, None)):
        rounds = found[rate]["rounds"]
        yield Bar(f"produce to outcome at {rate}/s beside Kafka Streams, p50", [r["x_p50"] for r in rounds], p50)
        if p99 is not None:
            yield Bar("  the same, p99", [r["x_p99"] for r in rounds], p99)


def _posts(found: Result, _: Result) -> Iterator[Bar]:
    yield Bar("a POST that waits beside produce to outcome at 50/s, p50", [r["x"] for r in found["rounds"]], 0.7)


def _streams(found: Result, _: Result) -> Iterator[Bar]:
    if "skipped" not in found:
        rounds = [r["x"] for r in found["rounds"]]
        yield Bar("backlog beside a warm Kafka Streams", rounds, 1.5, at_most=False)


def _backlog(found: Result, _: Result) -> Iterator[Bar]:
    for name, what, bar in (("library", "the plain library", 50.0), ("ceiling", "the raw ceiling", 0.65)):
        yield Bar(f"backlog beside {what}", [r[f"x_{name}"] for r in found["rounds"]], bar, at_most=False)


def _lateness(found: Result, _: Result) -> Iterator[Bar]:
    yield Bar("AutoAccepted after the deadline, p99", [r["p99_ms"] for r in found["rounds"]], 100, "ms")


def _deadlines(found: Result, result: Result) -> Iterator[Bar]:
    if "backlog" not in result:
        return
    needed = found["disputes"] / result["backlog"]["one"]
    rounds = [r["seconds"] / needed for r in found["rounds"]]
    yield Bar("deadlines at once beside as many commands of the backlog", rounds, 1.5)


def _verify(found: Result, _: Result) -> Iterator[Bar]:
    for name, what, bar in (("x_history", "history", 2.0), ("x", "history and read models", 1.2)):
        rounds = [r[name] for r in found["rounds"]]
        yield Bar(f"verifying {what} beside the commands process", rounds, bar, at_most=False)

    rounds = [r["x_what_if"] for r in found["rounds"]]
    yield Bar("a what-if beside verifying history and read models", rounds, 2.0)


def _large_store(found: Result, _: Result) -> Iterator[Bar]:
    yield Bar(f"per command, {found['events']:,} events stored beside 1 %", [found["x"]], 1.3)


def _pages(found: Result, _: Result) -> Iterator[Bar]:
    yield Bar("200 page views a second beside all roles, p99", [r["p99_ms"] for r in found["rounds"]], 50, "ms")


_BARS: dict[str, Callable[[Result, Result], Iterator[Bar]]] = {
    "beside_streams": _beside_streams,
    "posts": _posts,
    "kafka_streams": _streams,
    "backlog": _backlog,
    "lateness": _lateness,
    "deadlines": _deadlines,
    "verify": _verify,
    "large_store": _large_store,
    "pages": _pages,
}
"""By the name of a measurement."""
