"""PostgreSQL and Kafka die, hang, cut connections or refuse to write, but nothing is lost or doubled."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from services.embedded import Servers
from services.embedded.kafka import Kafka
from services.embedded.postgres import Postgres
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.faults.proxy import BehindProxy, Proxy
from tests.support.installation import Installation, until


@dataclass
class Own:
    """Servers that no other test uses."""

    kafka: Kafka
    postgres: Postgres

    def start(self) -> Servers:
        return Servers(self.postgres.start(), self.kafka.start())

    def broker(self) -> psutil.Process:
        process = self.kafka._process()
        assert process is not None
        return process

    def postmaster(self) -> psutil.Process:
        process = self.postgres._postmaster()
        assert process is not None
        return process

    def stop(self) -> None:
        self.kafka.stop()
        self.postgres.stop()


@pytest.fixture
def folder() -> Iterator[Path]:
    # A short name: the database's socket is in it.
    with tempfile.TemporaryDirectory(prefix="rc-", ignore_cleanup_errors=True) as name:
        for server in ("kafka", "postgres"):
            (Path(name).resolve() / server).mkdir()
        yield Path(name).resolve()


@pytest.fixture
def own(folder: Path) -> Iterator[Own]:
    own = Own(Kafka(folder / "kafka", lambda _: None), Postgres(folder / "postgres", lambda _: None))
    own.start()
    try:
        yield own
    finally:
        own.stop()


def kill_broker(own: Own) -> Callable[[], object]:
    own.broker().kill()
    return own.kafka.start


def hang_broker(own: Own) -> Callable[[], object]:
    broker = own.broker()
    broker.suspend()
    return broker.resume


def kill_postgres(own: Own) -> Callable[[], object]:
    own.postmaster().kill()
    return own.postgres.start


@pytest.mark.parametrize("fail", [kill_broker, kill_postgres, pytest.param(hang_broker, marks=pytest.mark.long)])
async def test_a_server_that_fails_and_comes_back_has_lost_nothing_for_anybody(
    own: Own, seed: int, fail: Callable[[Own], Callable[[], object]]
):
    dice = random.Random(seed)
    async with Installation.fresh(own.start()) as installation:
        await installation.run(scale=FAST)
        async with under_load(installation, dice):
            await asyncio.sleep(1 + dice.random())
            mend = fail(own)
            await asyncio.sleep(3)
            await asyncio.to_thread(mend)
            await asyncio.sleep(1)
        await assert_nothing_lost_and_nothing_twice(installation)


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A separate file system of 400 MB for the database."""
    disk = folder / "postgres"
    options = ["-t", "tmpfs", "-o", "size=400m,mode=0755", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def refuses(installation: Installation) -> bool:
    """Whether the disk is too full for a few rows, or for the database's log, in which case the database ends."""
    try:
        installation.query("CREATE TABLE x AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        installation.query("DROP TABLE x")
    except psycopg.OperationalError:
        return True
    return False


@pytest.mark.long
async def test_a_full_disk_under_the_database_loses_nothing(small_disk: Path, own: Own, seed: int):
    dice = random.Random(seed)
    async with Installation.fresh(own.start()) as installation:
        await installation.run(scale=FAST)
        async with under_load(installation, dice):
            await asyncio.sleep(1 + dice.random())
            filler = small_disk / "filler"
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
            await until(lambda: refuses(installation))
            await asyncio.sleep(5)
            filler.unlink()
            await asyncio.to_thread(own.postgres.start)
            await asyncio.sleep(1)
        await assert_nothing_lost_and_nothing_twice(installation)


async def test_connections_to_the_database_that_are_cut_under_load_change_nothing(
    installation: Installation, seed: int
):
    dice = random.Random(seed)
    await installation.run(scale=FAST)
    async with under_load(installation, dice):
        for _ in range(8):
            await asyncio.sleep(dice.random())
            installation.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    await assert_nothing_lost_and_nothing_twice(installation)


@pytest.fixture
async def proxied(folder: Path) -> AsyncIterator[tuple[Proxy, Servers]]:
    async with Proxy.listening() as proxy:
        own = Own(BehindProxy(folder / "kafka", proxy), Postgres(folder / "postgres", lambda _: None))
        try:
            yield proxy, await asyncio.to_thread(own.start)
        finally:
            await asyncio.to_thread(own.stop)


async def test_a_broker_that_is_cut_off_slow_or_unreachable_changes_nothing(proxied: tuple[Proxy, Servers], seed: int):
    """Connections are cut under load: during fetches, produce requests, transactions and their markers."""
    proxy, servers = proxied
    dice = random.Random(seed)
    async with Installation.fresh(servers) as installation:
        await installation.run(scale=FAST)
        async with under_load(installation, dice):
            for _ in range(6):
                await asyncio.sleep(dice.random())
                proxy.cut()
            proxy.delay = 0.05
            await asyncio.sleep(4)
            proxy.delay, proxy.reachable = 0.0, False
            proxy.cut()
            await asyncio.sleep(8)
            proxy.reachable = True
            await asyncio.sleep(1)
        await assert_nothing_lost_and_nothing_twice(installation)


@pytest.mark.long
async def test_a_service_started_before_its_servers_waits_for_them(own: Own):
    servers = own.start()
    async with Installation.fresh(servers) as installation:
        own.stop()
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "resolution",
            "serve",
            env=os.environ | installation.settings.as_environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await asyncio.sleep(2)
            await asyncio.to_thread(own.postgres.start)
            await asyncio.sleep(2)
            await asyncio.to_thread(own.kafka.start)
            assert process.stdout is not None
            line = await asyncio.wait_for(process.stdout.readline(), 60)
            assert line.startswith(b"ready {")
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()
