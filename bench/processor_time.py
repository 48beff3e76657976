"""Processor time of roles and servers. It depends less than elapsed time on what else the machine does."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psutil
import psycopg

from services.settings import Settings


class ProcessorTime:
    """The processor time that PostgreSQL, Kafka and processes named by their pids have used so far."""

    def __init__(self, settings: Settings, connection: psycopg.Connection[Any]) -> None:
        postmaster = psutil.Process(connection.info.backend_pid).parent()
        assert postmaster is not None
        self._postmaster = postmaster
        self._kafka = psutil.Process(_listener(int(settings.kafka.rpartition(":")[2])))

    def used(self, **pids: int) -> dict[str, float]:
        """Returns seconds by name: of these processes, and of `postgresql` and `kafka`."""
        postgresql = 0.0
        for child in self._postmaster.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # the process has ended, and its time counts as the postmaster's
                postgresql += sum(child.cpu_times()[:2])
        postgresql += sum(self._postmaster.cpu_times()[:4])
        own = {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in pids.items()}
        return own | {"postgresql": postgresql, "kafka": sum(self._kafka.cpu_times()[:2])}


def microseconds_each(before: Mapping[str, float], after: Mapping[str, float], count: float) -> dict[str, float]:
    """Returns for each name what was used in between, divided by `count`."""
    return {name: (after[name] - before[name]) * 1e6 / count for name in after}


def _listener(port: int) -> int:
    listening = (c for c in psutil.net_connections("tcp") if c.status == "LISTEN")
    found = next(c.pid for c in listening if c.laddr and c.laddr[1] == port)
    assert found is not None
    return found
