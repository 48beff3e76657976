"""Watches a running service: the lag and memory of each role, the size of the store, and whether pages load."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import psutil
import psycopg

from bench.costs import tables
from bench.engine import percentiles
from bench.traffic import Traffic
from projections import READ_MODELS
from services.eventstore.checkpoint_chain import parse
from services.eventstore.checkpoint_notes import checkpoint_notes
from services.eventstore.installation_state import Overview, overview
from services.kafka.read_topics import extents, last_value
from services.kafka.relay_position import published
from services.kafka.topics import DEFAULT_PARTITIONS, Topics
from services.runtime.installation import clock_of
from services.runtime.roles import ROLES
from services.runtime.supervisor import Supervisor
from services.settings import Settings

Result = dict[str, Any]

_PATIENCE_SECONDS = 900
"""How long to wait for the rest after the last command. The last deadlines are due after 180 s."""

_MEANWHILE = 1000
"""The lag that is normal at any moment."""


class Watch:
    """Takes samples of roles, servers and traffic."""

    def __init__(self, settings: Settings, supervisor: Supervisor, sends: Traffic) -> None:
        self._settings, self._supervisor, self._sends = settings, supervisor, sends
        self._topics, self._clock = Topics(settings.topic_prefix), clock_of(settings)
        self._pids = {role: supervisor.pid(role) for role in ROLES}
        self.failures: list[str] = []

    async def sample(self) -> Result:
        """Returns a sample of this moment, and of the time since the last sample."""
        taken, late = self._sends.times()
        lags = await self.lags()
        if not taken:
            self.failures.append("in one of the minutes no command was answered")
        return {
            "latency": percentiles(taken) | {"commands": len(taken)} if taken else None,
            "sent": self._sends.sent,
            "sent_late": percentiles(late) if late else None,
            "memory_mb": self._memory(),
            "lag": lags,
        } | await asyncio.to_thread(self._stored)

    def _memory(self) -> dict[str, float]:
        """Returns resident memory by role. Notes roles that were restarted since the beginning."""
        found = {}
        for role, pid in self._pids.items():
            if pid is None or self._supervisor.pid(role) != pid:
                self.failures.append(f"the role {role} did not stay the process that it was")
                self._pids[role] = self._supervisor.pid(role)
                continue
            with suppress(psutil.NoSuchProcess):
                found[role] = psutil.Process(pid).memory_info().rss / 1e6
        return found

    def _stored(self) -> Result:
        with psycopg.connect(self._settings.database) as connection:
            [database] = connection.execute("SELECT pg_database_size(current_database())").fetchone() or [0]
            notes, now = checkpoint_notes(connection), overview(connection, self._clock.now())
            sizes = {name: size / 1e6 for name, size in tables(connection)}
        return {
            "database_mb": database / 1e6,
            "tables_mb": sizes,
            "events": now.last_event,
            "outcomes": now.last_outcome,
            "deadlines": {"open": now.deadlines, "overdue": now.overdue},
            "checkpoints": notes.published if notes else 0,
        }

    async def lags(self) -> dict[str, int]:
        """Returns by role how many records, outcomes or events it has not handled, for projections the slowest's."""
        return self._behind(await asyncio.to_thread(self._overview), *await self._on_kafka())

    def _overview(self) -> Overview:
        with psycopg.connect(self._settings.database) as connection:
            return overview(connection, self._clock.now())

    async def _on_kafka(self) -> tuple[int, dict[str, dict[int, int]]]:
        cluster, topics = self._settings.cluster, self._topics
        _, ends = await extents(cluster, (topics.commands, topics.events), DEFAULT_PARTITIONS)
        return (await published(cluster, topics)).outcome_id, ends

    def _behind(self, now: Overview, relayed: int, ends: dict[str, dict[int, int]]) -> dict[str, int]:
        judged, timed = now.positions.get("commands", {}), now.positions.get("timer", {})
        return {
            "commands": sum(end - judged.get(n, 0) for n, end in ends[self._topics.commands].items()),
            "relay": max(0, now.last_outcome - relayed),
            # A partition of events ends with a transaction marker, which nobody reads.
            "timer": sum(max(0, end - timed.get(n, 0) - 1) for n, end in ends[self._topics.events].items()),
            "projections": now.last_event - min(now.read_models.get(name, 0) for name in READ_MODELS),
        }

    async def until_caught_up(self) -> None:
        """Waits until the lag is normal. It does not become 0, because the timer keeps sending commands."""
        await self._until(_MEANWHILE, self.lags)

    async def until_done(self) -> None:
        """Waits until everything that was sent is handled, and everything that follows from it, deadlines included."""
        await self._until(0, self._left)
        await self._until(0, self._left)  # handles what the timer asked meanwhile

    async def _until(self, most: int, look: Callable[[], Awaitable[dict[str, int]]]) -> None:
        patient_until = time.perf_counter() + _PATIENCE_SECONDS
        while max((left := await look()).values()) > most:
            self._memory()
            if time.perf_counter() > patient_until:
                self.failures.append(f"after {_PATIENCE_SECONDS} s this was not done: {left}")
                return
            await asyncio.sleep(1)

    async def _left(self) -> dict[str, int]:
        now = await asyncio.to_thread(self._overview)
        unchecked = await self._unchecked(now.last_event)
        return {"deadlines": now.deadlines, "checkpoints": unchecked, "unanswered": self._sends.unanswered} | (
            await self.lags()
        )

    async def _unchecked(self, events: int) -> int:
        """Returns how many of this many events no checkpoint covers."""
        value = await last_value(self._settings.cluster, self._topics.checkpoints)
        return max(0, events - (parse(value).last if value else 0))

    async def view_pages(self) -> None:
        """Logs in as somebody every second, and loads the page of orders."""
        async with httpx.AsyncClient(base_url=self._supervisor.said["http"], timeout=60, follow_redirects=True) as web:
            while True:
                try:
                    (await web.post("/login", data={"user": self._sends.somebody})).raise_for_status()
                except httpx.HTTPError as error:
                    self.failures.append(f"a page was not shown: {type(error).__name__}: {error}")
                await asyncio.sleep(1)
