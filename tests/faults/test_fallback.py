"""A database falls back to an earlier state while the roles keep their connections: a pooler and a failover do that."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.kafka.relay_position import published
from services.settings import Settings
from tests.engine.backups import back_up, restore_as
from tests.engine.test_ledger import ledger
from tests.engine.test_pooler import behind_pgbouncer
from tests.engine.test_verify import findings
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.installation import Installation
from tests.pgbouncer import PgBouncer, needed

pytestmark = needed


@dataclass
class Pooled:
    """An installation behind PgBouncer, and the settings with which its server is reached past that."""

    installation: Installation
    direct: Settings
    pooler: PgBouncer

    @asynccontextmanager
    async def falls_back(self, file: Path) -> AsyncIterator[None]:
        """To what is stored now, once the block is done."""
        name = urlsplit(self.direct.database).path[1:]
        past = Installation(self.direct)
        await back_up(past, file)
        yield
        await restore_as(past, file, f"{name}_earlier")
        await asyncio.to_thread(self.pooler.switch, name, f"{name}_earlier")


@pytest.fixture
def pooled(installation: Installation) -> Iterator[Pooled]:
    direct = installation.settings
    with behind_pgbouncer(installation, "transaction") as pooler:
        yield Pooled(installation, direct, pooler)


async def test_a_database_that_falls_back_under_living_connections_loses_and_repeats_nothing(
    pooled: Pooled, tmp_path: Path, seed: int
):
    dice, installation = random.Random(seed), pooled.installation
    await installation.run(scale=FAST)
    async with under_load(installation, dice, per_second=150):
        await asyncio.sleep(2)
        async with pooled.falls_back(tmp_path / "backup"):
            await asyncio.sleep(dice.random())
        await asyncio.sleep(2)
    await assert_nothing_lost_and_nothing_twice(installation)
    assert (await published(installation.settings.cluster, installation.topics)).timeline != ""
    await installation.until_projected()
    assert (await findings(installation))["differences"] == []
    assert (await ledger(installation))["differences"] == []
