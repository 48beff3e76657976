"""A PostgreSQL that takes nobody without TLS and a password, with the roles of deploy/postgres."""

import shutil
import socket
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.support import postgres_programs

from .certificates import Authority

ROLES = ("owner", "service", "projections", "http", "auditor")
DATABASE = "resolution"
_ROLES_SQL = Path("deploy/postgres/roles.sql")
_CONFIGURATION = """
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
"""
_WHO = """\
local all all trust
hostssl all all 127.0.0.1/32 scram-sha-256
"""


class GuardedPostgres:
    """Listens on 127.0.0.1 for those who log in, and on a socket in its folder for its administrator."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self.authority = Authority(folder)
        self.stranger = Authority(folder, "stranger")
        self.port = _free_port()

    def _start(self) -> str:
        postgres_programs.prepare(self._folder)
        postgres_programs.run("initdb", "--auth=trust", "-E", "utf8", "-U", "postgres", "-D", str(self._data))
        identity = self.authority.issue("server")
        for source, name in ((identity.certificate, "server.crt"), (identity.key, "server.key")):
            shutil.copyfile(source, self._data / name)
            (self._data / name).chmod(0o600)
            postgres_programs.own(self._data / name)
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION.format(port=self.port, folder=self._data))
        (self._data / "pg_hba.conf").write_text(_WHO)
        postgres_programs.run("pg_ctl", "-w", "-D", str(self._data), "-l", str(self._data / "log"), "start")
        return f"host={self._data} port={self.port} user=postgres"

    def stop(self) -> None:
        postgres_programs.run("pg_ctl", "-w", "-m", "immediate", "-D", str(self._data), "stop")

    def log(self) -> str:
        return (self._data / "log").read_text()

    def set_up(self) -> str:
        """As an administrator does: the database, the roles from the project's own file, a password for each.

        Returns the administrator's connection string, without a database.
        """
        admin = self._start()
        with psycopg.connect(admin, dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        self.add_roles(admin, DATABASE)
        return admin

    def add_roles(self, admin: str, database: str) -> None:
        with psycopg.connect(admin, dbname=database, autocommit=True) as connection:
            connection.execute(_ROLES_SQL.read_bytes())
            for role in ROLES:
                connection.execute(f"ALTER ROLE resolution_{role} PASSWORD '{password_of(role)}'")

    def url(
        self, role: str, *, password: str | None = None, database: str = DATABASE, authority: Path | None = None
    ) -> str:
        secret = quote(password_of(role) if password is None else password, safe="")
        trusted = authority or self.authority.file
        return (
            f"postgresql://resolution_{role}:{secret}@127.0.0.1:{self.port}/{database}"
            f"?sslmode=verify-full&sslrootcert={quote(str(trusted), safe='')}"
        )


def password_of(role: str) -> str:
    return f"Geheim & @{role}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
