"""A role's process, as the supervisor sees it.

It is forked from a process that has imported the roles already (`fork_server`), because imports are most of what a
role's start costs. The fork server is multiprocessing's: it starts with the first role, and again if it dies.
"""

import asyncio
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

_ROLES = "services.runtime.fork_server"
_HTTP = "services.http.role"
"""What only the role http needs. It takes as long to import as the other roles together."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([_ROLES])
_one_at_a_time = ThreadPoolExecutor(1, "multiprocessing")
"""Calls of multiprocessing that may block, or change what it knows of all processes, which it does not lock."""

Work = Callable[[str, Connection], None]
"""What a role's process does: given the role's name and the connection to the process that started it."""


def run_role(role: str, parent: Connection) -> None:
    """Runs the role until it is told to stop."""
    from .roles import main  # here, because the process that starts roles has no other use for them

    main(role, parent)


def start_fork_server(roles: Collection[str]) -> None:
    """Imports these roles while this process does something else. Otherwise the first role's start waits for that."""
    _context.set_forkserver_preload([_HTTP, _ROLES] if "http" in roles else [_ROLES])
    forkserver.ensure_running()


class RoleProcess:
    """Starts when it is made. The role stops on SIGTERM, and when this process is gone."""

    def __init__(self, role: str, environment: Mapping[str, str], work: Work, log_file: Path | None = None) -> None:
        self.exit_code: int | None = None
        """None until `wait` has returned; 255 if nobody knows, because the fork server died before the role."""
        self._ours, theirs = _context.Pipe()
        self._process = _context.Process(
            target=_become, args=(role, dict(environment), work, theirs, log_file), name=role, daemon=True
        )
        self._started = asyncio.get_running_loop().run_in_executor(_one_at_a_time, self._start, theirs)

    def _start(self, theirs: Connection) -> None:
        with theirs:
            self._process.start()

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self.exit_code is None else None

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What the role sends, until it ends. Raises OSError or EOFError where it could not be started."""
        await asyncio.shield(self._started)
        while True:
            await _readable(self._ours.fileno())
            try:
                yield self._ours.recv()
            except (EOFError, OSError):
                return

    async def wait(self) -> int:
        """Returns its exit code once it has ended: negative, the signal that ended it."""
        if self.exit_code is None:
            async for _ in self.messages():  # the connection ends with the role, even after the fork server has died
                pass
            await _readable(self._process.sentinel)
            loop = asyncio.get_running_loop()
            self.exit_code = await loop.run_in_executor(_one_at_a_time, lambda: self._process.exitcode)
            self._ours.close()
        assert self.exit_code is not None
        return self.exit_code

    async def stop(self, within_seconds: float) -> bool:
        """Ends the role and returns once it has ended: whether it stopped by itself in this time, or was killed."""
        try:
            await asyncio.shield(self._started)
        except (EOFError, OSError):
            return True
        self._signal(SIGTERM)
        try:
            async with asyncio.timeout(within_seconds):
                await self.wait()
        except TimeoutError:
            self._signal(SIGKILL)
            await self.wait()
            return False
        return True

    def _signal(self, number: int) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


async def _readable(descriptor: int) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _become(role: str, environment: dict[str, str], work: Work, parent: Connection, log_file: Path | None) -> None:
    """In the new process."""
    os.environ.clear()
    os.environ.update(environment)
    if log_file is not None:
        with log_file.open("a") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    work(role, parent)
