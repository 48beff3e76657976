"""PgBouncer before a PostgreSQL server, as other people run it: defaults, but for the mode."""

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
    """One that runs. `url` is its own for a database."""

    def __init__(self, port: int) -> None:
        self._port = port

    @classmethod
    @contextmanager
    def before(cls, database: str, mode: str, settings: str = "") -> Iterator["PgBouncer"]:
        """Before the server of this URL. It does not run as root."""
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
            user, group = _may_reach(str(parameters["host"])) if os.geteuid() == 0 else (None, None)
            for path in (folder, configuration):
                path.chmod(0o755)
            with (folder / "log").open("w") as log:
                process = subprocess.Popen(
                    [PROGRAM, str(configuration)], stdout=log, stderr=log, cwd="/", user=user, group=group
                )
            try:
                bouncer = cls(port)
                bouncer._until_up(process, folder / "log")
                yield bouncer
            finally:
                process.terminate()
                process.wait(10)

    def url(self, database: str) -> str:
        """The same database through it."""
        parameters = conninfo_to_dict(database)
        return f"postgresql://{parameters.get('user')}@127.0.0.1:{self._port}/{parameters['dbname']}"

    def _until_up(self, process: subprocess.Popen[bytes], log: Path) -> None:
        for _ in range(100):
            assert process.poll() is None, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=2).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(log.read_text())


def _may_reach(host: str) -> tuple[int, int]:
    """A user that is not root, and may open the server's socket."""
    owner = Path(host).stat() if host.startswith("/") else None
    if owner is not None and owner.st_uid:
        return owner.st_uid, owner.st_gid
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid
