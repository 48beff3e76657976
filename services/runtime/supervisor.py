"""Runs each role in its own process, and restarts processes that end."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.failures import Misuse
from services.settings import Settings

from .role_names import OF_ALL_SHARDS
from .role_process import RoleProcess, Work, run_role

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_STOP_SECONDS = 20.0


class Supervisor:
    """Keeps roles running. Each role is a child process, which ends with this process, even if this one is killed.

    A process is named after its role. If there are several shards, the shard's number follows: `commands.1`.
    """

    def __init__(
        self,
        settings: Settings,
        metrics_ports: Mapping[str, int] | None = None,
        *,
        log_file: Path | None = None,
        work: Work = run_role,
    ) -> None:
        self._metrics_ports = metrics_ports or {}
        self._settings = settings
        self._log_file = log_file
        self._work = work
        self.environment = os.environ | settings.as_environment()
        """The environment of processes that are started from now on."""
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, RoleProcess] = {}
        self._ready: dict[str, asyncio.Event] = {}
        self._worked: set[str] = set()
        self.refused = asyncio.Event()
        """Set when a role cannot start with these settings."""
        self.refusal = ""
        """A sentence that says why it cannot."""
        self.said: dict[str, str] = {}
        """What the roles reported when they were ready. `http` is the URL of the http role."""

    def start(self, *roles: str) -> None:
        """Starts roles that are not running yet."""
        for name in self._processes_of(roles):
            if name not in self._keepers:
                self._ready[name] = asyncio.Event()
                self._keepers[name] = asyncio.create_task(self._keep(name))

    async def ready(self) -> None:
        """Waits until all started roles work."""
        await asyncio.gather(*(event.wait() for event in self._ready.values()))

    async def stop(self, *roles: str) -> None:
        """Ends roles (all by default), and waits until they have finished their current batches."""
        await asyncio.gather(*(self._stop(name) for name in self._processes_of(roles) or tuple(self._keepers)))

    def pid(self, name: str) -> int | None:
        """Returns the pid of a role's process, or None if it does not run at the moment."""
        process = self._processes.get(name)
        return process.pid if process else None

    def _processes_of(self, roles: Sequence[str]) -> list[str]:
        return [name for role in roles for name in processes_of(self._settings, role)]

    async def _keep(self, name: str) -> None:
        role = name.partition(".")[0]
        pause = _FIRST_PAUSE_SECONDS
        while True:
            process = RoleProcess(role, self._environment_of(name), self._work, self._log_file)
            self._processes[name] = process
            try:
                async for message in process.messages():
                    if self._note(name, message):
                        pause = _FIRST_PAUSE_SECONDS
                code = await process.wait()
            except (EOFError, OSError) as error:
                log.warning("role %s could not be started: %r", name, error)
                code = os.EX_OSERR
            self._ready[name].clear()
            log.warning(
                "role %s ended with %d; starting it again in %.1f s", name, code, pause, extra={"ended_role": name}
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _note(self, name: str, report: dict[str, str]) -> bool:
        """Notes a role's report. Returns whether the role is ready."""
        # If the role has worked before, it may work again: its port may be in use for a moment only.
        if "refused" in report and name not in self._worked:
            self.refusal = report["refused"]
            self.refused.set()
        if report.pop("ready", None) is None:
            return False
        self.said |= report
        if url := report.get("http"):  # the role keeps its port when it is restarted
            self.environment["RESOLUTION_HTTP_PORT"] = url.rpartition(":")[2]
        self._ready[name].set()
        self._worked.add(name)
        return True

    def _environment_of(self, name: str) -> dict[str, str]:
        own = {}
        if port := self._metrics_ports.get(name):
            own["RESOLUTION_METRICS_PORT"] = str(port)
        if shard := name.partition(".")[2]:
            own["RESOLUTION_SHARD"] = shard
        return self.environment | own

    async def _stop(self, name: str) -> None:
        keeper = self._keepers.pop(name)
        keeper.cancel()
        await asyncio.wait([keeper])
        self._ready.pop(name, None)
        process = self._processes.pop(name, None)
        if process is not None and not await process.stop(_STOP_SECONDS):
            log.warning("role %s did not stop within %.0f s and was killed", name, _STOP_SECONDS)


def processes_of(settings: Settings, role: str) -> list[str]:
    """Returns the names of a role's processes."""
    if role in OF_ALL_SHARDS or len(settings.shards) == 1:
        return [role]
    return [f"{role}.{shard.shard.number}" for shard in settings.own_shards]


def known_roles(asked: Sequence[str], existing: Sequence[str]) -> list[str]:
    """Returns the roles to run: those asked for, or all. Raises Misuse for a role that does not exist."""
    for role in asked:
        if role not in existing:
            raise Misuse(f"There is no role {role!r}; the roles are {', '.join(existing)}.")
    return list(dict.fromkeys(asked)) or list(existing)
