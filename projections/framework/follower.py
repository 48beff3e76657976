"""Keeps read models up to date. Those that work are updated together, so that events are read once for all of them."""

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic, perf_counter

from services.eventstore.commit_listener import CommitListener
from services.telemetry import role_metrics
from services.telemetry.health import progress

from .projector import BATCH, Projector, catch_up

log = logging.getLogger(__name__)

_SHORTEST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_BETWEEN_BATCHES_SECONDS = 0.04
"""The least time between the beginnings of two batches, unless the first was full. The first event after a pause is
applied at once, and a stream of events in batches, because fifty events take hardly more processor time than one."""


class Follower:
    """Applies new events of one event store to several read models."""

    def __init__(self, projectors: Sequence[Projector]) -> None:
        self._projectors = projectors
        self._pauses: dict[str, _Pause] = {}

    async def run(self, changes: CommitListener) -> None:
        """Applies new events for ever. A read model that fails stands still and is logged; the others continue.

        Raises psycopg.Error when the connection of `changes` is lost.
        """
        while True:
            progress("read_models")
            began, mark = monotonic(), changes.seen()
            # `changes` reports commits since `mark`, so a batch that was not full needs no second look.
            if await self._next_batch(changes) < BATCH:
                await changes.after(mark)
                await asyncio.sleep(began + _BETWEEN_BATCHES_SECONDS - monotonic())

    async def _next_batch(self, changes: CommitListener) -> int:
        """Applies the next batch. Returns the largest number of events that it had for one read model."""
        working = [projector for projector in self._projectors if projector.schema not in self._pauses]
        alone = [projector for projector in self._projectors if projector.schema in self._pauses]
        events = 0
        try:
            if working:
                events = await asyncio.to_thread(_apply, working)
        except Exception:
            alone = list(self._projectors)  # try each one alone to find out which one fails
        for projector in alone:
            changes.check()  # raises if the database is the cause
            events = max(events, await asyncio.to_thread(self._apply_alone, projector))
        return events

    def _apply_alone(self, projector: Projector) -> int:
        pause = self._pauses.get(projector.schema)
        if pause is not None and not pause.is_over():
            return 0
        try:
            events = _apply([projector])
        except Exception:
            pause = self._pauses[projector.schema] = _Pause(pause)
            role_metrics.stands_still(projector.schema)
            log.exception(
                "read model %s stands still; trying again in %.1f s",
                projector.schema,
                pause.seconds,
                extra={"read_model": projector.schema},
            )
            return 0
        self._pauses.pop(projector.schema, None)
        return events


class _Pause:
    """The pause of a read model that failed. It is twice as long as the pause before."""

    def __init__(self, before: "_Pause | None") -> None:
        self.seconds: float = min(before.seconds * 2, _LONGEST_PAUSE_SECONDS) if before else _SHORTEST_PAUSE_SECONDS
        self._began = monotonic()

    def is_over(self) -> bool:
        return monotonic() - self._began >= self.seconds


def _apply(projectors: Sequence[Projector]) -> int:
    started = perf_counter()
    applied = catch_up(projectors)
    if applied:
        role_metrics.applied(applied, perf_counter() - started)
    return max(applied.values(), default=0)
