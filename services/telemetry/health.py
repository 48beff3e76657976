"""Whether a process is alive, and whether it works.

Alive: its event loop turns, and its main loops get through or wait for a server that is away. A role that waits for a
server is alive, since starting it again would help nobody. Ready: it has started, its servers answered a moment ago,
its main loops get through, and what there is to do gets done.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from threading import Thread
from time import monotonic, sleep

from prometheus_client import Gauge

log = logging.getLogger(__name__)

_BEAT_SECONDS = 1.0
_LOOP_STUCK_SECONDS = 30.0
_SILENT_SECONDS = 30.0
_STUCK_SECONDS = 90.0
_WAITS_SECONDS = 30.0
_FRESH_SECONDS = 20.0
_GUARD_SECONDS = 1.0
_GUARD_GRACE_SECONDS = 10.0

_silent = Gauge("resolution_no_progress_seconds", "Seconds since a main loop of this process got through.", ["loop"])
_stopped_partitions = Gauge("resolution_partitions_stopped", "Partitions that cannot be read.", ["topic"])

_passages: dict[str, float] = {}
_troubles: dict[str, tuple[float, str, bool]] = {}
_assigned: dict[str, set[int]] = {}
_stopped: dict[tuple[str, int], str] = {}


def progress(loop: str) -> None:
    """A main loop got through: it did its work, or found none. Each that has done so once has to do so again."""
    _passages[loop] = monotonic()
    _troubles.pop(loop, None)


def trouble(loop: str, why: str, *, waits: bool = False) -> None:
    """A main loop did not get through, and tries again. `waits`: a server is away, so starting again would not help."""
    now = monotonic()
    _passages.setdefault(loop, now)
    _troubles[loop] = (now, why, waits)


def assigned(topic: str, partitions: Iterable[int]) -> None:
    """These partitions of a topic are this process's to read."""
    _assigned[topic] = set(partitions)
    for place in [place for place in _stopped if place[0] == topic and place[1] not in _assigned[topic]]:
        stopped(*place, "")


def is_assigned(topic: str, partition: int) -> bool:
    """Whether this process reads a partition."""
    return partition in _assigned.get(topic, ())


def stopped(topic: str, partition: int, why: str) -> None:
    """A partition cannot be read, and the others are read on. Without a reason: it is tried again."""
    if why:
        _stopped[topic, partition] = why
    else:
        _stopped.pop((topic, partition), None)
    _stopped_partitions.labels(topic).set(sum(name == topic for name, _ in _stopped))


class Health:
    """Of one role. Read by other threads than the event loop's."""

    def __init__(self) -> None:
        self._beat = monotonic()
        self._servers: dict[str, tuple[float, str]] = {}
        self._unmoved: dict[str, tuple[float, float, bool]] = {}
        self.started = False
        """Whether the role works, or did when it started."""

    async def beat(self) -> None:
        """For ever, on the event loop."""
        while True:
            self._beat = monotonic()
            await asyncio.sleep(_BEAT_SECONDS)

    def server(self, name: str, trouble: str = "") -> None:
        """A server answered just now, or did not and what was the trouble."""
        self._servers[name] = (monotonic(), trouble)

    def unmoved(self, what: str, seconds: float, *, restart: bool) -> None:
        """For how long there has been work in `what` of which nothing was done; 0 where something was, or is none.

        `restart`: whether a new process might do it.
        """
        self._unmoved[what] = (monotonic(), seconds, restart)

    def not_alive(self) -> str:
        """Why the process should be started again; empty where it should not."""
        now = monotonic()
        if now - self._beat > _LOOP_STUCK_SECONDS:
            return f"the event loop has not turned for {now - self._beat:.0f} s"
        found = [
            f"{loop} has not got through for {now - at:.0f} s{_because(loop)}"
            for loop, at in list(_passages.items())
            if now - at > _STUCK_SECONDS and not _waits(loop, now)
        ]
        found += [
            f"nothing was done of {what} for {seconds:.0f} s"
            for what, seconds, restart in self._standing_still(now)
            if seconds > _STUCK_SECONDS and restart and not _is_stopped(what)
        ]
        return "; ".join(found)

    def not_ready(self) -> str:
        """Why it does not work now; empty where it does."""
        if not self.started:
            return "starting"
        now, servers = monotonic(), dict(self._servers)
        if not servers:
            return "the servers have not been asked yet"
        troubles = [f"{name}: {trouble}" for name, (_, trouble) in servers.items() if trouble]
        troubles += [f"{name} was not asked lately" for name, (at, _) in servers.items() if now - at > _FRESH_SECONDS]
        return "; ".join([*troubles, *self.silence()])

    def silence(self) -> list[str]:
        """What this process gets nowhere with, though its servers may answer."""
        now = monotonic()
        found = list(_stopped.values())
        for loop, at in list(_passages.items()):
            _silent.labels(loop).set(now - at)
            if now - at > _SILENT_SECONDS:
                found.append(f"{loop} has not got through for {now - at:.0f} s{_because(loop)}")
        return found + [
            f"nothing was done of {what} for {seconds:.0f} s"
            for what, seconds, _ in self._standing_still(now)
            if seconds > _SILENT_SECONDS and not _is_stopped(what)
        ]

    def _standing_still(self, now: float) -> list[tuple[str, float, bool]]:
        return [
            (what, seconds, restart)
            for what, (at, seconds, restart) in list(self._unmoved.items())
            if now - at <= _FRESH_SECONDS
        ]


class Guard:
    """Watches a process from a thread of its own: says every half minute what gets nowhere, and ends it when it hangs.

    `end` is called with the reason once the process has not been alive for a while: whoever started it starts it again.
    """

    def __init__(self, health: Health, end: Callable[[str], None]) -> None:
        self._health = health
        self._end = end
        self._said_at: float | None = None
        self._dead_since: float | None = None

    def start(self) -> None:
        """Starts the thread that watches."""
        Thread(target=self._watch, name="guard", daemon=True).start()

    def _watch(self) -> None:
        while True:
            sleep(_GUARD_SECONDS)
            self.look()

    def look(self) -> None:
        """Once."""
        now = monotonic()
        if silence := self._health.silence():
            if self._said_at is None or now - self._said_at >= _SILENT_SECONDS:
                log.error("no progress: %s", "; ".join(silence))
                self._said_at = now
        else:
            self._said_at = None
        why = self._health.not_alive()
        self._dead_since = (self._dead_since or now) if why else None
        if self._dead_since is not None and now - self._dead_since > _GUARD_GRACE_SECONDS:
            self._end(why)


def _is_stopped(what: str) -> bool:
    return any(what == f"{topic}/{partition}" for topic, partition in list(_stopped))


def _waits(loop: str, now: float) -> bool:
    at, _, waits = _troubles.get(loop, (0.0, "", False))
    return waits and now - at < _WAITS_SECONDS


def _because(loop: str) -> str:
    why = _troubles.get(loop, (0.0, "", False))[1]
    return f" ({why})" if why else ""
