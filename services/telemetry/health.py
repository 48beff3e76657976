"""Whether a process is alive, and whether it works.

Alive: its event loop turns and its main loops come by. A role that waits for a server is alive, since starting it again
would help nobody. Ready: it has started, and its servers answered a moment ago.
"""

import asyncio
from time import monotonic

_BEAT_SECONDS = 1.0
_STALLED_SECONDS = 30.0
_STUCK_SECONDS = 180.0
_FRESH_SECONDS = 20.0

_passages: dict[str, float] = {}


def progress(loop: str) -> None:
    """A main loop came by. Each that has done so once has to do so again within three minutes."""
    _passages[loop] = monotonic()


class Health:
    """Of one role. Read by another thread than the event loop's."""

    def __init__(self) -> None:
        self._beat = monotonic()
        self._servers: dict[str, tuple[float, str]] = {}
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

    def not_alive(self) -> str:
        """Why the process should be started again; empty where it should not."""
        now = monotonic()
        if now - self._beat > _STALLED_SECONDS:
            return f"the event loop has not turned for {now - self._beat:.0f} s"
        stuck = [f"{name} has not come by for {now - at:.0f} s" for name, at in list(_passages.items()) if _stuck(at)]
        return "; ".join(stuck)

    def not_ready(self) -> str:
        """Why it does not work now; empty where it does."""
        if not self.started:
            return "starting"
        now, servers = monotonic(), dict(self._servers)
        if not servers:
            return "the servers have not been asked yet"
        troubles = [f"{name}: {trouble}" for name, (_, trouble) in servers.items() if trouble]
        troubles += [f"{name} was not asked lately" for name, (at, _) in servers.items() if now - at > _FRESH_SECONDS]
        return "; ".join(troubles)


def _stuck(at: float) -> bool:
    return monotonic() - at > _STUCK_SECONDS
