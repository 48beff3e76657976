"""A request of a Kafka transaction reaches the broker late, inside the next transaction: nothing comes twice (KIP-890)."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from resolution_contracts import OpenDispute, OrderUpdateRequest

from services.checkpoints.role import CheckpointsRole
from services.embedded import Servers
from services.embedded.postgres import Postgres
from services.judging.partitioner import partition_of
from services.kafka.transactions import TransactionInDoubt
from services.relay import unpublished
from services.relay.role import RelayRole
from tests.faults.holding import Holding, Kind
from tests.faults.proxy import BehindProxy
from tests.faults.test_servers_fail import Own, folder
from tests.support.checkpoints import assert_chain_holds, store_events, with_key
from tests.support.commands import CLIENT, register_under_some_terms
from tests.support.installation import PARTITIONS, Installation, until
from tests.support.judgement_day import assert_as_the_oracle_says

folder = folder
_RUN = 120
_ORDERS = 150
"""With two commands each: more than two runs."""


@pytest.fixture
async def held_up(folder: Path) -> AsyncIterator[tuple[Holding, Servers]]:
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    async with Holding.listening() as proxy:
        own = Own(BehindProxy(folder / "kafka", proxy), Postgres(folder / "postgres", lambda _: None))
        try:
            yield proxy, await asyncio.to_thread(own.start)
        finally:
            await asyncio.to_thread(own.stop)


@asynccontextmanager
async def kept_running(
    role: "Callable[[], RelayRole] | Callable[[], CheckpointsRole]",
) -> AsyncIterator[list[Exception]]:
    """Runs a role in this process, and restarts it whenever it ends. Yields the list of errors it ended with."""
    ended: list[Exception] = []

    async def keep() -> None:
        while True:
            try:
                await role().run(asyncio.Event())
            except Exception as error:
                ended.append(error)

    keeping = asyncio.create_task(keep())
    try:
        yield ended
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


async def test_a_request_of_the_relay_that_comes_late_changes_nothing(
    held_up: tuple[Holding, Servers], seed: int, monkeypatch: pytest.MonkeyPatch
):
    """Each of the relay's transactions has more than one Produce request, so that half of one can be committed."""
    monkeypatch.setattr(unpublished, "RUN", _RUN)
    proxy, servers = held_up
    dice = random.Random(seed)
    for kind in Kind:
        async with Installation.fresh(servers) as installation:
            await installation.run("commands")
            for order_id in orders_of_one_partition(dice, _ORDERS):
                await installation.publish(order_id, register_under_some_terms(dice))
                await installation.publish(order_id, long_request())
            await until(partial(is_judged, installation, 2 * _ORDERS))
            proxy.transactional_id, proxy.kind = installation.topics.relay, kind
            settings = installation.settings
            role = partial(RelayRole, settings.cluster, installation.topics, settings.database, settings.master_keys)
            async with kept_running(role) as ended:
                await asyncio.wait_for(proxy.released.wait(), 30)
                await installation.until_published()
            assert await assert_as_the_oracle_says(installation) == 2 * _ORDERS
        assert_no_transaction_followed_a_doubt(proxy, ended)


async def test_a_request_of_the_checkpoints_that_comes_late_changes_nothing(
    held_up: tuple[Holding, Servers], tmp_path: Path
):
    proxy, servers = held_up
    for kind in Kind:
        async with Installation.fresh(servers) as installation:
            public = with_key(installation, tmp_path / kind.name)
            proxy.transactional_id, proxy.kind = installation.topics.checkpoints, kind
            store_events(installation, 23)
            async with kept_running(partial(CheckpointsRole, installation.settings, installation.topics)) as ended:
                await asyncio.wait_for(proxy.released.wait(), 30)
                await assert_chain_holds(installation, public)
        assert_no_transaction_followed_a_doubt(proxy, ended)


def assert_no_transaction_followed_a_doubt(proxy: Holding, ended: list[Exception]) -> None:
    """Under the same epoch. Of the others Kafka itself knows which are late."""
    assert proxy.held is not None
    if proxy.held.kind in (Kind.ADD_PARTITIONS, Kind.END):
        assert [type(error) for error in ended] == [TransactionInDoubt]
        assert proxy.held.epoch not in {request.epoch for request in proxy.seen}
    proxy.released.clear()


def is_judged(installation: Installation, commands: int) -> bool:
    return installation.query("SELECT count(*) FROM outcomes") == [(commands,)]


def orders_of_one_partition(dice: random.Random, count: int) -> list[str]:
    """Returns order ids that are all in partition 0."""
    order_ids: list[str] = []
    while len(order_ids) < count:
        if partition_of((order_id := f"order-{dice.randrange(10**9)}").encode(), PARTITIONS) == 0:
            order_ids.append(order_id)
    return order_ids


def long_request() -> OpenDispute:
    """Returns a request so long that one record batch of the relay's producer holds at most sixty of its events."""
    return OpenDispute(
        actor=CLIENT, request=OrderUpdateRequest(kind="order_update", message="\N{DOVE OF PEACE}" * 2_500)
    )
