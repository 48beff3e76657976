"""The PostgreSQL primary dies, hangs or vanishes, and its standby takes over: nothing is lost, nothing twice."""

import asyncio
from collections.abc import Callable

import pytest

from services.embedded import Servers

from .postgres import Pair
from .trial import Trial, trial

pytestmark = pytest.mark.long

FAILOVER = 15.0
VANISHED_PRIMARY = 20.0
"""Seconds for which no outcome may come."""
NOTICED = 2.0
"""Seconds after which whoever watches over the primary promotes the standby."""

Bounded = Callable[[float, float], None]
PairOf = Callable[[bool], Pair]


@pytest.mark.parametrize("synchronous", [pytest.param(True, marks=pytest.mark.short), False])
async def test_failover_there_and_back(pair_of: PairOf, kafka: str, seed: int, bounded: Bounded, synchronous: bool):
    pair = await asyncio.to_thread(pair_of, synchronous)
    async with trial(Servers(pair.url, kafka), seed) as it:
        for _ in range(2):
            await asyncio.sleep(it.dice.random())
            pair.primary.stop()
            await fail_over(it, pair)
    bounded(it.silence, FAILOVER)


@pytest.mark.usefixtures("drops_packets")
async def test_a_failover_that_loses_the_last_commits(pair_of: PairOf, kafka: str, seed: int, bounded: Bounded):
    pair = await asyncio.to_thread(pair_of, False)
    async with trial(Servers(pair.url, kafka), seed) as it:
        pair.primary.replication.vanish()
        await asyncio.sleep(1 + it.dice.random())
        lost = unreplicated(it, pair)
        pair.primary.stop()
        await fail_over(it, pair)
    assert lost > 0
    bounded(it.silence, FAILOVER)


@pytest.mark.parametrize("synchronous", [True, pytest.param(False, marks=pytest.mark.short)])
@pytest.mark.usefixtures("drops_packets")
async def test_a_vanished_primary(pair_of: PairOf, kafka: str, seed: int, bounded: Bounded, synchronous: bool):
    pair = await asyncio.to_thread(pair_of, synchronous)
    async with trial(Servers(pair.url, kafka), seed) as it:
        await asyncio.sleep(it.dice.random())
        pair.primary.link.vanish()
        pair.primary.replication.vanish()
        await fail_over(it, pair)
    bounded(it.silence, VANISHED_PRIMARY)


async def test_a_hung_primary_that_is_killed_and_replaced(pair_of: PairOf, kafka: str, seed: int, bounded: Bounded):
    """Its host acknowledges all packets, so only a missing answer shows that it hangs."""
    hung = 10.0
    pair = await asyncio.to_thread(pair_of, True)
    async with trial(Servers(pair.url, kafka), seed) as it:
        pair.primary.hang()
        await asyncio.sleep(hung)
        pair.primary.stop()
        await fail_over(it, pair)
    bounded(it.silence, hung + FAILOVER)


async def test_a_primary_that_hangs_for_a_while(pair_of: PairOf, kafka: str, seed: int, bounded: Bounded):
    hung = 15.0
    pair = await asyncio.to_thread(pair_of, True)
    async with trial(Servers(pair.url, kafka), seed) as it:
        pair.primary.hang()
        await asyncio.sleep(hung)
        pair.primary.resume()
    bounded(it.silence, hung + FAILOVER)


async def fail_over(it: Trial, pair: Pair) -> None:
    """Once it is noticed. When outcomes come again, the old primary becomes the standby."""
    await asyncio.sleep(NOTICED)
    await asyncio.to_thread(pair.promote_standby)
    await it.outcomes.flow()
    await asyncio.to_thread(pair.rejoin)


def unreplicated(it: Trial, pair: Pair) -> int:
    """How many outcomes the primary has that its standby has not."""
    database = it.installation.settings.topic_prefix.rstrip(".")
    last = "SELECT coalesce(max(outcome_id), 0) FROM outcomes"
    [(stored,)], [(replicated,)] = (node.query(last, database) for node in (pair.primary, pair.standby))
    return int(stored - replicated)
