"""Starts roles from a process that has imported them already, because imports take most of a role's start.

A role is a process of its own as ever, with its own environment, session, stdin, stdout and stderr; it is forked where
`services.runtime.supervisor` would execute Python anew. That is still done where the role's Python itself is told something
else: by a fault (`services.fault_points` reads it when imported), or by a variable of Python's.
"""

import asyncio
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from tempfile import mkdtemp
from typing import Any, NoReturn

from services.runtime.supervisor import Supervisor

_READ_WHEN_IMPORTED = ("RESOLUTION_FAULT", "PYTHON", "OTEL_")
"""Prefixes of variables that modules read when they are imported. If they differ, a role needs a new Python process."""
_MODULES = {"http": ("services.runtime.roles", "services.http.role")}
"""Modules to import before forking, by role. Other roles import only the first, because their memory is measured."""

_run_anew = Supervisor._spawn
_forks: dict[tuple[str, ...], "_Forks"] = {}


def install() -> None:
    """Makes supervisors in this process fork their roles. Does nothing on systems other than Linux and macOS."""
    if hasattr(os, "fork"):
        Supervisor._spawn = _spawn  # type: ignore[assignment, method-assign]


async def _spawn(supervisor: Supervisor, name: str) -> Any:
    environment = supervisor._environment_of(name)
    if _needs_own_python(environment):
        return await _run_anew(supervisor, name)
    role = name.partition(".")[0]
    modules = _MODULES.get(role, ("services.runtime.roles",))
    if modules not in _forks:
        _forks[modules] = _Forks(modules)
    return await _forks[modules].start(role, environment)


def _needs_own_python(environment: dict[str, str]) -> bool:
    return any(
        name.startswith(_READ_WHEN_IMPORTED) and os.environ.get(name) != value for name, value in environment.items()
    )


class _Role:
    """A forked role, with those parts of asyncio's Process that a supervisor uses."""

    def __init__(
        self,
        pid: int,
        stdin: int,
        stdout: asyncio.StreamReader,
        told: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._stdin, self._told = stdin, told
        self._end = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        reader, writer = self._told
        self.returncode = int(await reader.readline() or -signal.SIGKILL)
        writer.close()
        os.close(self._stdin)

    async def wait(self) -> int:
        await asyncio.shield(self._end)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class _Forks:
    """The process that roles are forked from. It ends with this one, whose end of its stdin is then closed."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._address = Path(mkdtemp(prefix="rc-")) / "warm"
        arguments = [sys.executable, "-m", "tests.warm", str(self._address), *modules]
        self._process = Popen(arguments, stdin=-1, stdout=-1, start_new_session=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "it listens"

    async def start(self, role: str, environment: dict[str, str]) -> _Role:
        loop = asyncio.get_running_loop()
        told = socket.socket(socket.AF_UNIX)
        told.connect(str(self._address))
        stdin, own_stdin = os.pipe()
        own_stdout, stdout = os.pipe()
        socket.send_fds(told, [b"."], [stdin, stdout, 2])
        for each in (stdin, stdout):
            os.close(each)
        told.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=told)
        writer.write(json.dumps([role, environment]).encode() + b"\n")
        pid = int(await reader.readline())
        said = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), os.fdopen(own_stdout, "rb"))
        return _Role(pid, own_stdin, said, (reader, writer))


# --- in the process that roles are forked from ---


def _serve(address: str, modules: list[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    woken, wakes = socket.socketpair()
    for each in (woken, wakes):
        each.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno())
    roles: dict[int, socket.socket] = {}
    print("ready", flush=True)
    with selectors.DefaultSelector() as selector:
        for source in (listening, woken, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if sys.stdin in ready:
                return
            if woken in ready:
                woken.recv(1024)
                _tell_ended(roles)
            if listening in ready:
                told, _ = listening.accept()
                roles[_fork(told)] = told


def _tell_ended(roles: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with roles.pop(pid) as told, suppress(OSError):
                told.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _fork(told: socket.socket) -> int:
    _, streams, _, _ = socket.recv_fds(told, 1, 3)
    with told.makefile("rb") as lines:
        role, environment = json.loads(lines.readline())
    if not (pid := os.fork()):
        _become(role, environment, streams)
    for each in streams:
        os.close(each)
    told.sendall(b"%d\n" % pid)
    return pid


def _become(role: str, environment: dict[str, str], streams: list[int]) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for own, each in enumerate(streams):
            os.dup2(each, own)
        os.closerange(3, 256)
        sys.stdin = open(0)  # noqa: SIM115  what was read of it belongs to the one before
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["services.runtime.roles", role]
        sys.modules["services.runtime.roles"].main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
