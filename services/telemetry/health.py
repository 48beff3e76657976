"""Says whether a process is alive, and whether it is ready.

A process is alive if its event loop runs, and if its main loops make progress or wait for a server that does not
answer. A role that waits for a server counts as alive, because a restart would not help. A process is ready if it has
started, its servers answered a moment ago, its main loops make progress, and its work gets done.
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
"""The event loop has not run for this long: not alive."""
_SILENT_SECONDS = 30.0
"""A main loop has made no progress for this long: not ready, and logged."""
_STUCK_SECONDS = 90.0
"""A main loop has made no progress for this long and waits for no server: not alive."""
_WAITS_SECONDS = 30.0
"""How long a report that a loop waits for a server counts."""
_FRESH_SECONDS = 20.0
"""How long a server's answer, or a report about unfinished work, counts."""
_GUARD_SECONDS = 1.0
_GUARD_GRACE_SECONDS = 10.0

_silent = Gauge("resolution_no_progress_seconds", "Seconds since a main loop made progress.", ["loop"])
_stopped_partitions = Gauge("resolution_partitions_stopped", "Partitions that cannot be read.", ["topic"])

_progress_at: dict[str, float] = {}
_troubles: dict[str, tuple[float, str, bool]] = {}
_assigned: dict[str, set[int]] = {}
_stopped: dict[tuple[str, int], str] = {}


def progress(loop: str) -> None:
    """Reports that a main loop did its work, or found none. From then on it has to report again and again."""
    _progress_at[loop] = monotonic()
    _troubles.pop(loop, None)


def trouble(loop: str, why: str, *, waits: bool = False) -> None:
    """Reports that a main loop failed and tries again.

    `waits` means that a server does not answer, so a restart would not help.
    """
    now = monotonic()
    _progress_at.setdefault(loop, now)
    _troubles[loop] = (now, why, waits)


def assigned(topic: str, partitions: Iterable[int]) -> None:
    """Reports which partitions of a topic this process reads from now on."""
    _assigned[topic] = set(partitions)
    for name, partition in [key for key in _stopped if key[0] == topic and key[1] not in _assigned[topic]]:
        stopped(name, partition, "")


def is_assigned(topic: str, partition: int) -> bool:
    """Whether this process reads a partition."""
    return partition in _assigned.get(topic, ())


def stopped(topic: str, partition: int, why: str) -> None:
    """Reports that a partition cannot be read. With an empty reason, reports that the consumer tries it again."""
    if why:
        _stopped[topic, partition] = why
    else:
        _stopped.pop((topic, partition), None)
    _stopped_partitions.labels(topic).set(sum(name == topic for name, _ in _stopped))


class Health:
    """The health of one role. Threads other than the event loop's read it."""

    def __init__(self) -> None:
        self._beat = monotonic()
        self._servers: dict[str, tuple[float, str]] = {}
        self._unmoved: dict[str, tuple[float, float, bool]] = {}
        self.started = False
        """Whether the role has started working."""

    async def beat(self) -> None:
        """Shows, for ever, that the event loop runs."""
        while True:
            self._beat = monotonic()
            await asyncio.sleep(_BEAT_SECONDS)

    def server(self, name: str, trouble: str = "") -> None:
        """Reports that a server answered just now, or how it failed."""
        self._servers[name] = (monotonic(), trouble)

    def unmoved(self, what: str, seconds: float, *, restart: bool) -> None:
        """Reports for how many seconds the work in `what` has not moved. 0 if it has, or if there is none.

        `restart` says whether a new process might do the work.
        """
        self._unmoved[what] = (monotonic(), seconds, restart)

    def not_alive(self) -> str:
        """Returns why the process should be restarted, or an empty text if it need not be."""
        now = monotonic()
        if now - self._beat > _LOOP_STUCK_SECONDS:
            return f"the event loop has not run for {now - self._beat:.0f} s"
        reasons = [
            f"{loop} has made no progress for {now - at:.0f} s{_because(loop)}"
            for loop, at in list(_progress_at.items())
            if now - at > _STUCK_SECONDS and not _waits(loop, now)
        ]
        reasons += [
            f"no work was done on {what} for {seconds:.0f} s"
            for what, seconds, restart in self._standing_still(now)
            if seconds > _STUCK_SECONDS and restart and not _is_stopped(what)
        ]
        return "; ".join(reasons)

    def not_ready(self) -> str:
        """Returns why the process does not work now, or an empty text if it does."""
        if not self.started:
            return "starting"
        now, servers = monotonic(), dict(self._servers)
        if not servers:
            return "the servers have not been asked yet"
        troubles = [f"{name}: {trouble}" for name, (_, trouble) in servers.items() if trouble]
        troubles += [f"{name} was not asked lately" for name, (at, _) in servers.items() if now - at > _FRESH_SECONDS]
        return "; ".join([*troubles, *self.silence()])

    def silence(self) -> list[str]:
        """Returns a sentence for each thing that this process makes no progress with. Sets the gauge of its loops."""
        now = monotonic()
        reasons = list(_stopped.values())
        for loop, at in list(_progress_at.items()):
            _silent.labels(loop).set(now - at)
            if now - at > _SILENT_SECONDS:
                reasons.append(f"{loop} has made no progress for {now - at:.0f} s{_because(loop)}")
        return reasons + [
            f"no work was done on {what} for {seconds:.0f} s"
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
    """Watches the process from its own thread. Logs every half minute what makes no progress.

    Calls `end` with the reason once the process has not been alive for a while. Whoever started the process then
    starts it again.
    """

    def __init__(self, health: Health, end: Callable[[str], None]) -> None:
        self._health = health
        self._end = end
        self._logged_at: float | None = None
        self._dead_since: float | None = None

    def start(self) -> None:
        """Starts the thread that watches."""
        Thread(target=self._watch, name="guard", daemon=True).start()

    def _watch(self) -> None:
        while True:
            sleep(_GUARD_SECONDS)
            self.look()

    def look(self) -> None:
        """Checks the process once."""
        now = monotonic()
        if silence := self._health.silence():
            if self._logged_at is None or now - self._logged_at >= _SILENT_SECONDS:
                log.error("no progress: %s", "; ".join(silence))
                self._logged_at = now
        else:
            self._logged_at = None
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
