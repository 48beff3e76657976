"""Clusters for these tests, and the times without outcomes that they measured."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.embedded import embedded

from .brokers import Brokers
from .links import Links
from .postgres import Pair

_SILENCE = "seconds without outcomes"


@pytest.fixture(scope="package")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rc-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()


@pytest.fixture(scope="package")
def links() -> Iterator[Links]:
    with Links.running() as running:
        yield running


@pytest.fixture(scope="package")
def three_brokers(folder: Path, links: Links) -> Iterator[Brokers]:
    brokers = Brokers(folder, links)
    try:
        brokers.start()
        yield brokers
    finally:
        brokers.stop()


@pytest.fixture
async def brokers(three_brokers: Brokers) -> AsyncIterator[Brokers]:
    """All three, whole when a test begins."""
    await three_brokers.mend()
    yield three_brokers
    for each in three_brokers.all:
        each.heal()


@pytest.fixture(scope="package")
def database(folder: Path) -> Iterator[str]:
    """A database that nothing happens to."""
    with embedded(folder, kafka=False) as servers:
        assert servers.database is not None
        yield servers.database


@pytest.fixture(scope="package")
def kafka(folder: Path) -> Iterator[str]:
    """A broker that nothing happens to."""
    with embedded(folder, database=False) as servers:
        assert servers.kafka is not None
        yield servers.kafka


@pytest.fixture
def pair_of(folder: Path, links: Links) -> Iterator[Callable[[bool], Pair]]:
    """Makes a primary with a standby; its argument says whether that is synchronous."""
    with ExitStack() as stack:

        def make(synchronous: bool) -> Pair:
            pair = Pair(_new(folder, "pair"), links, synchronous=synchronous)
            stack.callback(pair.stop)
            pair.start()
            return pair

        yield make


@pytest.fixture
def drops_packets() -> None:
    """For tests that drop packets."""
    if sys.platform != "linux":
        pytest.skip("drops packets by a socket filter, which Linux has")


@pytest.fixture
def bounded(record_property: Callable[[str, object], None]) -> Callable[[float, float], None]:
    """Records a silence and holds it against its bound, both in seconds."""

    def check(silence: float, bound: float) -> None:
        busy = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
        record_property(_SILENCE, (silence, bound, busy))
        assert silence <= bound, f"{silence:.1f} s without an outcome, and {bound:.0f} s are allowed ({busy})"

    return check


def _new(folder: Path, name: str) -> Path:
    """A folder in that one. Not pytest's own, which another run would close to PostgreSQL's user meanwhile."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    measured = [
        (report.nodeid, *value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for name, value in report.user_properties
        if name == _SILENCE
    ]
    if measured:
        terminalreporter.section(f"cluster: {_SILENCE}")
        for test, silence, bound, busy in sorted(measured):
            terminalreporter.write_line(f"{silence:6.1f}  of {bound:3.0f}  {test}  ({busy})")
