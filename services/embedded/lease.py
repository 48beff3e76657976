"""Shared use of a server: whoever comes first starts it, whoever leaves last stops it.

Each using process holds a shared lock on a file; the kernel lets go of it however the process ends. So whoever gets the
lock for itself alone is the only user left, also after a kill -9.
"""

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from fasteners import InterProcessLock, InterProcessReaderWriterLock


class Server(Protocol):
    """Something that can be started, joined and stopped. All of it happens under the folder's gate."""

    folder: Path

    def start(self) -> str:
        """Starts the server, or joins it where it runs; returns its address. Raises ServerError."""
        ...

    def stop(self) -> None:
        """Stops it. Nobody uses it any more."""
        ...


class _Lease:
    """This process's use of one server, however many parts of the process share it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.users = 0
        self.address = ""
        server.folder.mkdir(parents=True, exist_ok=True)
        self._gate = InterProcessLock(server.folder / "gate.lock")
        self._in_use = InterProcessReaderWriterLock(server.folder / "in-use.lock")

    def take(self) -> None:
        with self._gate:
            self._in_use.acquire_read_lock()
            try:
                self.address = self.server.start()
            except BaseException:
                self._let_go()
                raise

    def give_back(self) -> None:
        with self._gate:
            self._let_go()

    def _let_go(self) -> None:
        self._in_use.release_read_lock()
        if self._in_use.acquire_write_lock(blocking=False):
            try:
                self.server.stop()
            finally:
                self._in_use.release_write_lock()


_leases: dict[Path, _Lease] = {}
_lock = threading.Lock()


@contextmanager
def leased(server: Server) -> Iterator[str]:
    """The server's address, for the length of the context. Raises ServerError."""
    with _lock:
        lease = _leases.setdefault(server.folder, _Lease(server))
        if lease.users == 0:
            try:
                lease.take()
            except BaseException:
                del _leases[server.folder]
                raise
        lease.users += 1
    try:
        yield lease.address
    finally:
        with _lock:
            lease.users -= 1
            if lease.users == 0 and _leases.pop(server.folder, None) is lease:
                lease.give_back()


@atexit.register
def _give_all_back() -> None:
    """For contexts that were never left."""
    while _leases:
        _, lease = _leases.popitem()
        with suppress(Exception):
            lease.give_back()
