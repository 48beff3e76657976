"""A database falls back to an earlier state while the roles keep their connections: a pooler and a failover do that."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.checkpoints.role import CheckpointsRole
from services.eventstore.checkpoint_notes import CheckpointLost
from services.kafka.relay_position import published
from services.settings import Settings
from tests.audit.test_ledger import ledger
from tests.audit.test_verify import findings
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.store.test_pooler import behind_pgbouncer
from tests.support.backups import back_up, restore_as
from tests.support.checkpoints import chain, store_events, until_covered, with_key
from tests.support.installation import Installation
from tests.support.pgbouncer import PgBouncer, needed

pytestmark = needed


@dataclass
class Pooled:
    """An installation behind PgBouncer, and settings that connect to its server directly."""

    installation: Installation
    direct: Settings
    pooler: PgBouncer

    @property
    def name(self) -> str:
        return urlsplit(self.direct.database).path[1:]

    async def back_up(self, file: Path) -> None:
        await back_up(Installation(self.direct), file)

    async def restore(self, file: Path) -> Installation:
        """Restores the backup to a second database."""
        await restore_as(Installation(self.direct), file, f"{self.name}_earlier")
        url = urlsplit(self.direct.database)._replace(path=f"/{self.name}_earlier").geturl()
        return Installation(replace(self.direct, database_url=url))

    async def fall_back(self) -> None:
        """Replaces the database with the restored one."""
        await asyncio.to_thread(self.pooler.switch, self.name, f"{self.name}_earlier")


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
        await pooled.back_up(tmp_path / "backup")
        await asyncio.sleep(dice.random())
        await pooled.restore(tmp_path / "backup")
        await pooled.fall_back()
        await asyncio.sleep(2)
    await assert_nothing_lost_and_nothing_twice(installation)
    assert (await published(installation.settings.cluster, installation.topics)).timeline != ""
    await installation.until_projected()
    assert (await findings(installation))["differences"] == []
    assert (await ledger(installation))["differences"] == []


async def test_checkpoints_of_a_database_that_fell_back_and_grew_again_are_not_continued(
    pooled: Pooled, tmp_path: Path
):
    """The database falls back between two looks of the role, so the events that it signed last have changed."""
    installation = pooled.installation
    with_key(installation, tmp_path / "key")
    store_events(installation, 10)
    ready = asyncio.Event()
    role = asyncio.create_task(CheckpointsRole(installation.settings, installation.topics).run(ready))
    await ready.wait()
    await until_covered(installation)
    await pooled.back_up(tmp_path / "backup")
    store_events(installation, 10)
    signed = await until_covered(installation)
    earlier = await pooled.restore(tmp_path / "backup")
    store_events(earlier, 30)
    earlier.query("UPDATE order_events SET topic = 'OrderCompleted' WHERE notification_id > 10")
    await pooled.fall_back()
    with pytest.raises(CheckpointLost):
        await asyncio.wait_for(role, 30)
    with pytest.raises(RuntimeError, match="does not fit"):
        await CheckpointsRole(installation.settings, installation.topics).run(asyncio.Event())
    assert await chain(installation) == signed
