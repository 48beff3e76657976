"""Keeps read models up to date, for ever: together while they work, so that events are read once for all of them."""

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
_GATHER_SECONDS = 0.01  # a transaction for each event would cost more than people notice


class Follower:
    """Follows the event store with read models of one store."""

    def __init__(self, projectors: Sequence[Projector]) -> None:
        self._projectors = projectors
        self._pauses: dict[str, _Pause] = {}

    async def run(self, changes: CommitListener) -> None:
        """A read model that fails stands still by itself, loudly, until it works; the others go on.

        Raises psycopg.Error when the connection of `changes` is lost.
        """
        while True:
            progress("read_models")
            mark = changes.seen()
            # What came since the look, `changes` tells: no need to look again for nothing.
            if await self._next_batch(changes) < BATCH:
                await changes.after(mark)
                await asyncio.sleep(_GATHER_SECONDS)

    async def _next_batch(self, changes: CommitListener) -> int:
        """Returns how many events it had for the read model that it had most for."""
        well = [projector for projector in self._projectors if projector.schema not in self._pauses]
        others = [projector for projector in self._projectors if projector.schema in self._pauses]
        events = 0
        try:
            if well:
                events = await asyncio.to_thread(_apply, well)
        except Exception:
            others = list(self._projectors)  # one of them is to blame: each by itself
        for projector in others:
            changes.check()  # none of them is, where the database is away
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
    """Of a read model that failed: twice as long as the one before."""

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
