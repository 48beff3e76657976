"""The service behind PgBouncer: under load in each of its modes, and while the server behind it falls back."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import httpx
import psycopg
import pytest

from services.embedded import Servers
from tests.observability.prometheus import free_port
from tests.support.installation import ROLES, Installation, until
from tests.support.pgbouncer import PgBouncer, needed

from .links import Links
from .postgres import Node, Pair
from .test_failover import FAILOVER, NOTICED, unreplicated
from .trial import trial

pytestmark = [pytest.mark.long, needed]

Bounded = Callable[[float, float], None]
PairOf = Callable[[bool], Pair]


@pytest.mark.short
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_the_service_works_behind_a_pooler(pair_of: PairOf, kafka: str, seed: int, bounded: Bounded, mode: str):
    pair = await asyncio.to_thread(pair_of, False)
    with PgBouncer.before(pair.primary.url, mode) as pooler:
        ports = {role: free_port() for role in (*ROLES, "http")}
        async with trial(Servers(pooler.url(pair.primary.url), kafka), seed, ports) as it:
            for port in ports.values():
                await until(partial(_is_ready, port), 60)
            assert await asyncio.gather(*(_migrate(it.installation) for _ in range(2))) == [0, 0]
            assert await asyncio.to_thread(_left_behind, it.installation.settings.database) == set()
    bounded(it.silence, FAILOVER)


@pytest.mark.usefixtures("drops_packets")
async def test_a_failover_that_loses_the_last_commits_under_connections_that_live_on(
    pair_of: PairOf, links: Links, kafka: str, seed: int, bounded: Bounded
):
    """PAUSE, fail over, RESUME: the roles see nothing of it, and what they remember did not happen."""
    pair = await asyncio.to_thread(pair_of, False)
    behind = links.to(pair.primary.port)
    with PgBouncer.before(Node.url_of(behind.port), "transaction") as pooler:
        async with trial(Servers(pooler.url(pair.primary.url), kafka), seed) as it:
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
        return await asyncio.wait_for(process.wait(), 150)
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
