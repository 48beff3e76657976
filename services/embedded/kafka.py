"""Runs Apache Kafka from its Maven artifacts: one node that is both broker and controller (KRaft)."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psutil

from .errors import ServerError
from .jars import fetch, one_at_a_time
from .java import java, release, version

_START_SECONDS = 90
_STOP_SECONDS = 30
_JVM = (
    "-Xms64m",
    "-Xmx512m",  # 256 MB are enough for a demo, but not for a backlog of large batches
    "-XX:TieredStopAtLevel=1",  # further compilation does not pay off for a server that runs for minutes
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
)
_CACHES_CLASSES = 25
"""The first Java version that can write a cache of loaded and linked classes in one run."""
_RECORD_SECONDS = 300
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=8
message.max.bytes=4194304
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
"""
_LOGGING = """\
appender.file.type=File
appender.file.name=file
appender.file.fileName={log}
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=[%d] %p %m (%c{{1}})%n
rootLogger.level=INFO
rootLogger.appenderRef.file.ref=file
"""


class Kafka:
    """The Kafka server of a folder, on loopback. It keeps its port as long as no other program takes it."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._log = folder / "kafka.log"
        self._state = folder / "state.json"
        self._say = say

    def start(self) -> str:
        """Starts the server, or joins a running one. Returns the bootstrap servers. Raises ServerError."""
        try:
            if (process := self._process()) is not None:
                self._wait_until_up(process)
                return f"127.0.0.1:{self._read_state()['port']}"
            return f"127.0.0.1:{self._start(prepare(self._say))}"
        except OSError as error:
            raise ServerError(f"Apache Kafka cannot be started in {self.folder}: {error}.") from error

    def properties(self, port: int, controller: int, data: Path) -> str:
        """Returns the broker's configuration. Subclasses for other kinds of brokers return another one."""
        return _PROPERTIES.format(port=port, controller=controller, data=data.as_posix())

    def cluster_id(self) -> str:
        """Returns the cluster id for setting up the storage. The brokers of one cluster share it."""
        return new_cluster_id()

    def format_arguments(self) -> tuple[str, ...]:
        """Returns further arguments for setting up the storage."""
        return ()

    def stop(self) -> None:
        """Stops the broker if it runs, and waits until it has ended."""
        if (process := self._process()) is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)

    def _start(self, class_path: list[Path]) -> int:
        """Starts a new process. Returns its port."""
        if not self._data.exists():
            self._format(class_path)
        port = _free_port(self._read_state().get("port"))
        self._configure(self.folder, self._data, port, _free_port(None))
        self._say("Starting Apache Kafka")
        self._log.unlink(missing_ok=True)
        with (self.folder / "kafka.out").open("wb") as output:
            process = subprocess.Popen(
                self._command(class_path, "kafka.Kafka", str(self.folder / "server.properties")),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal must end the processes that use it first
                cwd=self.folder,
            )
        started = psutil.Process(process.pid)
        self._state.write_text(json.dumps({"pid": process.pid, "created": started.create_time(), "port": port}))
        self._wait_until_up(started)
        return port

    def _format(self, class_path: list[Path]) -> None:
        """Sets up the storage in a temporary folder, and renames that when it is complete."""
        self._say("Setting up Apache Kafka")
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        self._configure(self.folder, new, 1, 2)
        properties = str(self.folder / "server.properties")
        arguments = ("format", "-t", self.cluster_id(), "-c", properties, *self.format_arguments())
        done = subprocess.run(
            self._command(class_path, "kafka.tools.StorageTool", *arguments),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerError(f"Apache Kafka's storage in {self.folder} cannot be set up: {done.stderr.strip()[:500]}")
        new.rename(self._data)

    def _configure(self, folder: Path, data: Path, port: int, controller: int) -> None:
        (folder / "server.properties").write_text(self.properties(port, controller, data))
        (folder / "log4j2.properties").write_text(_LOGGING.format(log=self._log.as_posix()))

    def _command(self, class_path: list[Path], main: str, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        jars = os.pathsep.join(str(jar) for jar in class_path)
        return [java(), *_JVM, *self._class_cache(class_path, main), logging, "-cp", jars, main, *arguments]

    def _class_cache(self, class_path: list[Path], main: str) -> tuple[str, ...]:
        cache = _cache_of(class_path)
        return (f"-XX:AOTCache={cache}",) if cache is not None and cache.exists() else ()

    def _wait_until_up(self, process: psutil.Process) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not (self._log.exists() and re.search(r"Kafka Server started", self._log.read_text(errors="replace"))):
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise ServerError(f"Apache Kafka ended while starting:{self._last_output()}")
            if time.monotonic() > deadline:
                raise ServerError(f"Apache Kafka is not up after {_START_SECONDS} s:{self._last_output()}")
            time.sleep(0.05)

    def _last_output(self) -> str:
        lines = ""
        for file in (self.folder / "kafka.out", self._log):
            if file.exists():
                lines += "\n" + "\n".join(file.read_text(errors="replace").splitlines()[-8:])
        return (
            f"{lines}\nIts log is {self._log}. Set RESOLUTION_DATA_DIR to another folder, or RESOLUTION_KAFKA_SERVERS "
            "to your own cluster."
        )

    def _read_state(self) -> dict[str, float]:
        try:
            state: dict[str, float] = json.loads(self._state.read_text())
            return {name: state[name] for name in ("pid", "created", "port")}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def _process(self) -> psutil.Process | None:
        """Returns the server's process, or None if it does not run. Another process may have its pid by now."""
        state = self._read_state()
        try:
            process = psutil.Process(int(state["pid"]))
            same = abs(process.create_time() - state["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
            return process if same else None
        except (KeyError, psutil.Error):
            return None


class _Recorder(Kafka):
    """A server that runs once to make the cache of classes. Java writes the cache when it ends."""

    def _class_cache(self, class_path: list[Path], main: str) -> tuple[str, ...]:
        return (f"-XX:AOTCacheOutput={self.folder / 'classes.aot'}",) if main == "kafka.Kafka" else ()

    def record(self, class_path: list[Path]) -> Path:
        """Makes the cache. Returns its file. Raises ServerError, and psutil.Error if it takes too long."""
        self._start(class_path)
        process = self._process()
        if process is not None:
            process.terminate()
            process.wait(_RECORD_SECONDS)
        return self.folder / "classes.aot"


def prepare(say: Callable[[str], None]) -> list[Path]:
    """Downloads Kafka, and makes a cache of its classes, with which it starts in half the processor time.

    Does each only the first time, in a folder that all data folders share. Returns the jars of the class path. Raises
    ServerError.
    """
    class_path = fetch(say)
    cache = _cache_of(class_path)
    if cache is None or cache.exists():
        return class_path
    with one_at_a_time(), tempfile.TemporaryDirectory(dir=cache.parent, ignore_cleanup_errors=True) as folder:
        if not cache.exists():
            say("Preparing Apache Kafka's classes, once")
            try:
                _Recorder(Path(folder), lambda _: None).record(class_path).rename(cache)
            except (ServerError, psutil.Error, OSError) as error:
                say(f"Apache Kafka will start more slowly, because its classes cannot be cached: {error}")
    return class_path


def _cache_of(class_path: list[Path]) -> Path | None:
    """Returns the cache file for this Java, or None if this Java cannot make one."""
    executable = java()
    if release(executable) < _CACHES_CLASSES:
        return None
    return class_path[0].parent / f"java-{version(executable)}.aot"


def new_cluster_id() -> str:
    """Returns a random id as Kafka writes it: 16 bytes in URL-safe base64."""
    return base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=").replace("-", "a", 1)


def _free_port(preferred: float | None) -> int:
    """Returns the preferred port if it is free, otherwise any free port."""
    for port in (int(preferred or 0), 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError("There is no free port on 127.0.0.1.")
