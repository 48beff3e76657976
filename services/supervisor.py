"""Runs roles as processes of their own and starts again the ones that die."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from .settings import Settings

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_STOP_SECONDS = 20.0


class Supervisor:
    """Keeps roles running. Each is a child process that ends when this process does, even when that is killed."""

    def __init__(self, settings: Settings, metrics_ports: Mapping[str, int] | None = None) -> None:
        self._metrics_ports = metrics_ports or {}
        self.environment = os.environ | settings.as_environment()
        """What the next processes are started with."""
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._ready: dict[str, asyncio.Event] = {}
        self.said: dict[str, str] = {}
        """What the roles said of themselves when they were ready: `http` is its URL."""

    def start(self, *roles: str) -> None:
        """Starts roles that are not running yet."""
        for role in roles:
            if role not in self._keepers:
                self._ready[role] = asyncio.Event()
                self._keepers[role] = asyncio.create_task(self._keep(role))

    async def ready(self) -> None:
        """Returns when all started roles work."""
        await asyncio.gather(*(event.wait() for event in self._ready.values()))

    async def stop(self, *roles: str) -> None:
        """Ends roles (all by default) and waits for them to finish what they have in hand."""
        await asyncio.gather(*(self._stop(role) for role in roles or tuple(self._keepers)))

    def pid(self, role: str) -> int | None:
        """The process of a role, if it runs at this moment."""
        process = self._processes.get(role)
        return process.pid if process and process.returncode is None else None

    async def _keep(self, role: str) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            process = await self._spawn(role)
            self._processes[role] = process
            assert process.stdout is not None
            async for line in process.stdout:
                said = json.loads(line)
                if said.pop("ready", None) == role:
                    self.said |= said
                    if url := said.get("http"):  # a free port stays the same when the role starts again
                        self.environment["RESOLUTION_HTTP_PORT"] = url.rpartition(":")[2]
                    self._ready[role].set()
                    pause = _FIRST_PAUSE_SECONDS
            code = await process.wait()
            self._ready[role].clear()
            log.warning(
                "role %s ended with %d; starting it again in %.1f s", role, code, pause, extra={"ended_role": role}
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _spawn(self, role: str) -> asyncio.subprocess.Process:
        # A session of its own, so that Ctrl-C in a terminal reaches this process alone, which then ends the roles. Its
        # stdin is a pipe from here: when this process is gone, the pipe ends, and so does the role.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.roles",
            role,
            env=self._environment_of(role),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    def _environment_of(self, role: str) -> dict[str, str]:
        port = self._metrics_ports.get(role)
        return self.environment | ({} if port is None else {"RESOLUTION_METRICS_PORT": str(port)})

    async def _stop(self, role: str) -> None:
        keeper = self._keepers.pop(role)
        keeper.cancel()
        await asyncio.wait([keeper])
        self._ready.pop(role, None)
        process = self._processes.pop(role, None)
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            log.warning("role %s does not stop; killing it", role)
            process.kill()
            await process.wait()


def known_roles(asked: Sequence[str], existing: Sequence[str]) -> list[str]:
    """The roles to run: those asked for, or all. Raises ValueError for one that does not exist."""
    for role in asked:
        if role not in existing:
            raise ValueError(f"There is no role {role!r}; the roles are {', '.join(existing)}.")
    return list(dict.fromkeys(asked)) or list(existing)
