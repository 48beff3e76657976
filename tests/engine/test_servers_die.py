"""The broker and the database are killed under load, and come back: nothing is lost, nothing twice."""

import asyncio
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.servers import Servers, embedded
from services.servers.kafka import Kafka
from services.servers.postgres import Postgres
from tests.engine.test_restarts import some_day
from tests.installation import Installation
from tests.judgement_day import assert_as_the_oracle_says


@pytest.fixture(scope="module")
def own() -> Iterator[tuple[Path, Servers]]:
    """Servers that nobody else uses, whatever the other tests run on."""
    with tempfile.TemporaryDirectory(prefix="rc-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        with embedded(folder) as servers:
            yield folder, servers


def kill_kafka(folder: Path) -> Callable[[], object]:
    server = Kafka(folder / "kafka", lambda _: None)
    process = server._process()
    assert process is not None
    process.kill()
    process.wait(10)
    return server.start


def kill_postgres(folder: Path) -> Callable[[], object]:
    server = Postgres(folder / "postgres", lambda _: None)
    process = server._postmaster()
    assert process is not None
    process.kill()
    return server.start


@pytest.mark.parametrize("kill", [kill_kafka, kill_postgres])
async def test_a_server_that_is_killed_and_comes_back_has_lost_nothing_for_anybody(
    own: tuple[Path, Servers], kill: Callable[[Path], Callable[[], object]]
):
    folder, servers = own
    async with Installation.fresh(servers) as installation:
        await installation.run(scale=34_560)
        day = some_day(installation, random.Random(5))
        for _ in range(150):
            await anext(day)
        bring_back = kill(folder)
        await asyncio.sleep(2)
        await asyncio.to_thread(bring_back)
        for _ in range(100):
            await anext(day)
        await installation.until_published(120)
        await installation.until_quiet(120)
        await assert_as_the_oracle_says(installation)
