"""Kafka Streams 4.1.1 with exactly-once v2: the strongest peer that keeps no database.

This compiles `Orders.java` with the machine's `javac` and runs it with one stream thread on the same broker. It differs
from the service: the broker and RocksDB call no fsync, history is a changelog of states instead of events that can be
queried, it judges only a few rules, and it has no timer.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jgo

from bench import engine
from services.embedded.jars import one_at_a_time
from services.settings import Settings

_ARTIFACT = "org.apache.kafka:kafka-streams:4.1.1"
_SOURCE = Path(__file__).with_name("Orders.java")


def can_run() -> bool:
    """Whether this machine has a Java compiler (Debian: `default-jdk-headless`)."""
    return shutil.which("javac") is not None


async def backlog(settings: Settings, commands: int, *, warm: int = 1) -> float:
    """Returns commands per second from an empty state, from outcome `warm` to the last one as `read_committed`."""
    async with engine.outcomes_of(settings) as seen, _running(settings, 100):
        first, started = await seen(warm), time.perf_counter()
        return (await seen(commands) - first) / (time.perf_counter() - started)


async def latency(settings: Settings, per_second: int, seconds: int, commit_interval_ms: int) -> dict[str, float]:
    """Returns milliseconds, measured as `engine.latency` does."""
    async with _running(settings, commit_interval_ms) as ready:
        await ready
        return await engine.latency_of(settings, per_second, seconds)


@asynccontextmanager
async def _running(settings: Settings, commit_interval_ms: int) -> AsyncIterator[asyncio.Task[None]]:
    """Runs the application in its own process. The task is done once it works."""
    with tempfile.TemporaryDirectory(prefix="rc-streams-", ignore_cleanup_errors=True) as folder:
        class_path = await asyncio.to_thread(_compile, Path(folder))
        process = await asyncio.create_subprocess_exec(
            "java", "-Xmx512m", "-cp", class_path, "Orders",
            settings.kafka, settings.topic_prefix, folder, str(commit_interval_ms),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield asyncio.create_task(_until_ready(process))
        finally:
            process.terminate()
            await process.wait()


async def _until_ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    if b"ready" not in await process.stdout.readline():
        raise RuntimeError("Kafka Streams did not start")


def _compile(folder: Path) -> str:
    """Returns the class path."""
    with one_at_a_time():
        jars = os.pathsep.join(str(artifact.resolve()) for artifact in jgo.resolve(_ARTIFACT))
    subprocess.run(["javac", "-cp", jars, "-d", str(folder), str(_SOURCE)], check=True)
    return jars + os.pathsep + str(folder)
