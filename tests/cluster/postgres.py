"""A PostgreSQL primary with a streaming standby, synchronous or asynchronous, and failing over from one to the other."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.support import postgres_programs

from .links import Links, stable_port

_CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = '64MB'
max_connections = 200
wal_level = replica
wal_keep_size = '1GB'
hot_standby = on
wal_receiver_timeout = '5s'
wal_retrieve_retry_interval = '500ms'
"""


class Node:
    """One server. Clients reach it over its `link`, its standby over `replication`."""

    def __init__(self, folder: Path, links: Links) -> None:
        folder.mkdir(parents=True)
        postgres_programs.prepare(folder)
        self._data = folder / "data"
        self._log = folder / "log"
        self.port = stable_port()
        self.link = links.to(self.port)
        self.replication = links.to(self.port)

    @staticmethod
    def url_of(port: int) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    @property
    def url(self) -> str:
        """Its own, past all links."""
        return self.url_of(self.port)

    def create(self) -> None:
        """A new, empty server, which runs."""
        postgres_programs.run("initdb", "--auth=trust", "-E", "utf8", "-U", "postgres", "-D", str(self._data))
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)
        self.start()

    def follow(self, primary: "Node") -> None:
        """Becomes a standby of another server, from a copy of it. What was here is gone."""
        self.stop()
        shutil.rmtree(self._data, ignore_errors=True)
        source = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
        postgres_programs.run("pg_basebackup", *source, "-D", str(self._data), "--checkpoint=fast")
        (self._data / "standby.signal").touch()
        postgres_programs.own(self._data / "standby.signal")
        self.configure(primary_conninfo=f"host=127.0.0.1 port={primary.replication.port} user=postgres")
        self.start()

    def configure(self, **settings: str) -> None:
        """Sets these, and nothing else, beside what all servers have."""
        lines = (f"{name} = '{value}'\n" for name, value in settings.items())
        (self._data / "postgresql.auto.conf").write_text("".join(lines))
        if self._processes():
            postgres_programs.run("pg_ctl", "-D", str(self._data), "reload")

    def start(self) -> None:
        postgres_programs.run(
            "pg_ctl", "-w", "-D", str(self._data), "-l", str(self._log), "-o", f"-p {self.port}", "start"
        )

    def promote(self) -> None:
        """Returns when it takes writes."""
        postgres_programs.run("pg_ctl", "-w", "-D", str(self._data), "promote")

    def stop(self) -> None:
        """At once, without a checkpoint and without telling anybody, as in a crash."""
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 30)

    def hang(self) -> None:
        """Stops all its processes: connections stay open, and nobody answers on them."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def query(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, dbname=database, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()

    def _processes(self) -> list[psutil.Process]:
        """Returns the server's processes. The postmaster is first, so that it is stopped before it starts others."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
            postmaster = psutil.Process(pid)
            if str(self._data) not in postmaster.cmdline():
                return []
            return [postmaster, *postmaster.children()]
        except (OSError, ValueError, IndexError, psutil.Error):
            return []


class Pair:
    """A primary and its standby. `synchronous`: a commit waits until both have it."""

    def __init__(self, folder: Path, links: Links, *, synchronous: bool) -> None:
        self.primary, self.standby = (Node(folder / name, links) for name in ("a", "b"))
        self._nodes = (self.primary, self.standby)
        self._synchronous = synchronous

    @property
    def url(self) -> str:
        """Of both, whichever is the primary."""
        hosts = ",".join(f"127.0.0.1:{node.link.port}" for node in self._nodes)
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    def start(self) -> None:
        self.primary.create()
        self.rejoin()

    def stop(self) -> None:
        for node in self._nodes:
            node.stop()

    def promote_standby(self) -> None:
        """The standby becomes the primary. What the old one does is the caller's trouble."""
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def rejoin(self) -> None:
        """Makes the old primary the standby of the new one; returns when it streams."""
        self.standby.stop()  # before anybody reaches it again
        for link in (self.standby.link, self.standby.replication):
            link.appear()
        self.standby.follow(self.primary)
        if self._synchronous:
            self.primary.configure(synchronous_standby_names="*")
        wanted = "sync" if self._synchronous else "async"
        streaming = f"SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = '{wanted}'"
        deadline = 300
        while not self.primary.query(streaming):
            deadline -= 1
            assert deadline > 0, "the standby does not stream after 30 s"
            self.primary.query("SELECT pg_sleep(0.1)")
