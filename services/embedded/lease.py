"""Shares a server among processes: the first process starts it, and the last one to leave stops it.

Each process that uses the server holds a shared lock on a file. The kernel releases the lock however the process ends,
also after a kill -9. So a process that gets the exclusive lock knows that it is the only user left.
"""

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from fasteners import InterProcessLock, InterProcessReaderWriterLock


class Server(Protocol):
    """A server that can be started, joined and stopped. The folder's gate lock is held during each of these."""

    folder: Path

    def start(self) -> str:
        """Starts the server, or joins a running one. Returns its address. Raises ServerError."""
        ...

    def stop(self) -> None:
        """Stops the server, which nobody uses any more."""
        ...


class _Lease:
    """This process's use of one server. Parts of the process share it."""

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
    """Yields the address of a running server, and uses the server until the context ends. Raises ServerError."""
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
    """Gives back the servers of contexts that were never left."""
    while _leases:
        _, lease = _leases.popitem()
        with suppress(Exception):
            lease.give_back()
