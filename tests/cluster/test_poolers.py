"""The service behind PgBouncer, in session and in transaction mode."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import httpx
import psycopg
import pytest

from services.servers import Servers
from tests.engine.commands import ask_update, register
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice
from tests.installation import ROLES, Installation, until
from tests.observability.prometheus import free_port

from .links import Links
from .pooler import Pooler
from .postgres import Pair
from .test_failover import FAILOVER, NOTICED, unreplicated
from .trial import trial

pytestmark = pytest.mark.long

Bounded = Callable[[float, float], None]
PairOf = Callable[[bool], Pair]
PoolerTo = Callable[[str, int], Pooler]
of_each_mode = pytest.mark.parametrize("mode", ["session", "transaction"])


@pytest.mark.short
@of_each_mode
async def test_the_service_works_and_says_that_it_is_ready(pair_of: PairOf, pooler_to: PoolerTo, kafka: str, mode: str):
    pair = await asyncio.to_thread(pair_of, False)
    pooler = await asyncio.to_thread(pooler_to, mode, pair.primary.port)
    async with Installation.fresh(Servers(pooler.url, kafka)) as installation:
        roles = (*ROLES, "http")
        installation.metrics_ports |= {role: free_port() for role in roles}
        await installation.run(*roles, scale=FAST)
        for number in range(20):
            await installation.send(f"order-{number}", register())
            await installation.publish(f"order-{number}", ask_update())
        await assert_nothing_lost_and_nothing_twice(installation)
        for role in roles:
            await until(partial(_is_ready, installation.metrics_ports[role]), 60)
        assert await asyncio.to_thread(_left_behind, installation.settings.database) == set()


@of_each_mode
async def test_migrate_may_run_again_and_again(pair_of: PairOf, pooler_to: PoolerTo, kafka: str, mode: str):
    """A lock or a setting that stays with a pooled connection would stop the next one, or the one at the same time."""
    pair = await asyncio.to_thread(pair_of, False)
    pooler = await asyncio.to_thread(pooler_to, mode, pair.primary.port)
    async with Installation.fresh(Servers(pooler.url, kafka)) as installation:
        for at_once in (1, 1, 3):
            done = await asyncio.gather(*(_migrate(installation) for _ in range(at_once)))
            assert done == [0] * at_once
        assert await asyncio.to_thread(_left_behind, installation.settings.database) == set()
        assert pair.primary.query("SELECT objid FROM pg_locks WHERE locktype = 'advisory'") == []


@pytest.mark.usefixtures("drops_packets")
async def test_a_failover_that_loses_the_last_commits_under_connections_that_live_on(
    pair_of: PairOf, pooler_to: PoolerTo, links: Links, kafka: str, seed: int, bounded: Bounded
):
    """PAUSE, fail over, RESUME: the roles see nothing of it, and what they remember did not happen."""
    pair = await asyncio.to_thread(pair_of, False)
    behind = links.to(pair.primary.port)
    pooler = await asyncio.to_thread(pooler_to, "transaction", behind.port)
    async with trial(Servers(pooler.url, kafka), seed) as it:
        pair.primary.replication.vanish()
        await asyncio.sleep(1 + it.dice.random())
        await asyncio.to_thread(pooler.say, "PAUSE")
        lost = unreplicated(it, pair)
        pair.primary.stop()
        await asyncio.sleep(NOTICED)
        await asyncio.to_thread(pair.promote_standby)
        behind.lead_to(pair.primary.port)
        await asyncio.to_thread(pooler.say, "RESUME")
        await it.outcomes.flow()
        await asyncio.to_thread(pair.rejoin)
    assert lost > 0
    bounded(it.silence, FAILOVER)


async def _is_ready(port: int) -> bool:
    async with httpx.AsyncClient(timeout=10) as client:
        return (await client.get(f"http://127.0.0.1:{port}/health/ready")).status_code == 200


async def _migrate(installation: Installation) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", "migrate", env=os.environ | installation.settings.as_environment()
    )
    try:
        return await asyncio.wait_for(process.wait(), 60)
    except TimeoutError:
        process.kill()
        raise


def _left_behind(url: str) -> set[tuple[str, ...]]:
    """What clients of the pool have set for whoever gets their connections next: not a session's defaults."""
    # PgBouncer itself sets these on a connection as its next client has them.
    followed = "'application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings'"
    changed = f"SELECT name, setting FROM pg_settings WHERE source = 'session' AND name NOT IN ({followed})"
    with ExitStack() as stack:
        found = set()
        for _ in range(20):  # at once, and each in a transaction, so that each has a connection of its own
            connection = stack.enter_context(psycopg.connect(url))
            found |= set(connection.execute(changed.encode()).fetchall())
    return found
