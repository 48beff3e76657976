"""Runs PgBouncer before a PostgreSQL server, with its defaults apart from the mode."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needed = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed (Debian package pgbouncer)")
_CONFIGURATION = """\
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 50
admin_users = pgbouncer
{settings}
"""


class PgBouncer:
    """A running PgBouncer. `url` returns its URL for a database."""

    def __init__(self, port: int, configuration: Path) -> None:
        self._port = port
        self._configuration = configuration

    @classmethod
    @contextmanager
    def before(cls, database: str, mode: str, settings: str = "") -> Iterator["PgBouncer"]:
        """Starts PgBouncer before the server of this URL, not as root."""
        assert PROGRAM is not None
        with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name, socket.socket() as probe:
            folder = Path(name)
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            parameters = conninfo_to_dict(database)
            named = {name: parameters.get(name) for name in ("host", "port", "user", "password")}
            server = " ".join(f"{name}={value}" for name, value in named.items() if value)
            configuration = folder / "pgbouncer.ini"
            configuration.write_text(_CONFIGURATION.format(server=server, port=port, mode=mode, settings=settings))
            identity: dict[str, Any] = _may_reach(str(parameters["host"])) if os.geteuid() == 0 else {}
            for path in (folder, configuration):
                path.chmod(0o755)
            with (folder / "log").open("w") as log:
                process = subprocess.Popen([PROGRAM, str(configuration)], stdout=log, stderr=log, cwd="/", **identity)
            try:
                bouncer = cls(port, configuration)
                bouncer._until_up(process, folder / "log")
                yield bouncer
            finally:
                process.terminate()
                process.wait(10)

    def url(self, database: str) -> str:
        """Returns the URL of the same database through PgBouncer."""
        parameters = conninfo_to_dict(database)
        return f"postgresql://{parameters.get('user')}@127.0.0.1:{self._port}/{parameters['dbname']}"

    def switch(self, database: str, other: str) -> None:
        """Puts another database of the server in the place of one, by name, as operators do for a failover.

        Clients keep their connections; what they have begun is ended first.
        """
        before = self._configuration.read_text()
        everything = next(line for line in before.splitlines() if line.startswith("* = "))
        self.say(f"PAUSE {database}")
        instead = f"{database} = {everything.removeprefix('* = ')} dbname={other}"
        self._configuration.write_text(before.replace("[databases]", f"[databases]\n{instead}"))
        self.say("RELOAD", f"RESUME {database}")

    def say(self, *commands: str) -> None:
        """Runs commands on its console, such as PAUSE. Returns when they are done."""
        with psycopg.connect(
            f"postgresql://pgbouncer@127.0.0.1:{self._port}/pgbouncer", autocommit=True, prepare_threshold=None
        ) as console:
            for command in commands:
                console.execute(command.encode())

    def _until_up(self, process: subprocess.Popen[bytes], log: Path) -> None:
        for _ in range(100):
            assert process.poll() is None, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=2).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(log.read_text())


def _may_reach(host: str) -> dict[str, int]:
    """A user that is not root, and may open the server's socket."""
    owner = Path(host).stat() if host.startswith("/") else None
    if owner is not None and owner.st_uid:
        return {"user": owner.st_uid, "group": owner.st_gid}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}
