"""PgBouncer, in session or transaction mode."""

import shutil
import subprocess
import time
from pathlib import Path

import psutil
import psycopg

from tests import postgres_programs

from .links import stable_port

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
_CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={target} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = postgres
pool_mode = {mode}
default_pool_size = 100
max_client_conn = 200
logfile = {log}
pidfile = {folder}/pid
"""


class Pooler:
    """In front of a server's port on loopback. What isn't named in its configuration is as PgBouncer has it."""

    def __init__(self, folder: Path, mode: str, target: int) -> None:
        postgres_programs.prepare(folder)
        self._configuration, users = folder / "pgbouncer.ini", folder / "users.txt"
        self.port = stable_port()
        users.write_text('"postgres" ""\n')
        self._configuration.write_text(
            _CONFIGURATION.format(
                target=target, port=self.port, users=users, mode=mode, log=folder / "log", folder=folder
            )
        )
        self._process: psutil.Popen | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        assert PROGRAM is not None
        self._process = psutil.Popen(
            [PROGRAM, "--quiet", str(self._configuration)],
            user=postgres_programs.USER,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )
        deadline = 100
        while True:
            try:
                self.say("SHOW VERSION")
                return
            except psycopg.OperationalError:
                deadline -= 1
                if deadline == 0 or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def say(self, command: str) -> None:
        """A command to its console, such as PAUSE; returns when it is done."""
        console = f"postgresql://postgres@127.0.0.1:{self.port}/pgbouncer"
        with psycopg.connect(console, autocommit=True) as connection:
            connection.execute(command.encode())
