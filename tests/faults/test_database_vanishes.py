"""Roles give up a PostgreSQL server that vanishes or hangs silently, and continue when a server answers."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from time import monotonic

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict

from services.runtime.roles import ROLES
from services.runtime.supervisor import Supervisor
from tests.audit.test_verify import findings
from tests.faults.vanishing import Address
from tests.observability.prometheus import free_port
from tests.observability.test_endpoints import ready
from tests.support.commands import ask_update, register
from tests.support.installation import Installation, until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="packets are dropped by a filter of Linux"),
    pytest.mark.timeout(300),  # a server is away for 40 s
]
_BUSY_SECONDS = 40  # a machine that does nothing else needs half of it


@pytest.fixture
async def two(installation: Installation) -> AsyncIterator[list[Address]]:
    """Two addresses of one server, both in the URL, like a primary and the standby that replaces it."""
    direct = installation.settings
    parameters = conninfo_to_dict(direct.database)
    if not str(parameters["host"]).startswith("/"):
        pytest.skip("the server has no socket on this machine")
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(Address.of(direct.database)) for _ in range(2)]
        ports = ",".join(str(one.port) for one in addresses)
        url = f"postgresql://{parameters['user']}@/{parameters['dbname']}?host=127.0.0.1,127.0.0.1&port={ports}"
        installation.metrics_ports = {role: free_port() for role in ROLES}
        installation.supervisor = Supervisor(replace(direct, database_url=url), installation.metrics_ports)
        await installation.run(*ROLES)
        yield addresses
        await installation.stop()


async def test_another_server_takes_the_place_of_one_that_vanishes(installation: Installation, two: list[Address]):
    await installation.send("order-1", register())
    two[0].vanish()
    began = monotonic()
    command = await installation.publish("order-1", ask_update())
    await until(lambda: outcome_of(installation, command), 60)
    seconds = monotonic() - began
    print(f"without outcomes for {seconds:.1f} s")
    assert seconds < _BUSY_SECONDS
    for port in installation.metrics_ports.values():
        await until(lambda port=port: is_ready(port), 60)
    await installation.until_projected()
    assert (await findings(installation))["differences"] == []


async def outcome_of(installation: Installation, command: str) -> bool:
    return any(outcome["causationid"] == command for outcome in await installation.outcomes())


async def is_ready(port: int) -> bool:
    try:
        return await ready(port)
    except httpx.TransportError:  # it starts again
        return False


@pytest.mark.parametrize("how", ["vanish", "hang"])
async def test_a_server_that_does_not_answer_is_told_and_waited_for(
    installation: Installation, two: list[Address], how: str
):
    await installation.send("order-1", register())
    for address in two:
        getattr(address, how)()
    began = monotonic()
    await installation.publish("order-1", ask_update())

    async def all_are_unready() -> bool:
        return not any([await is_ready(port) for port in installation.metrics_ports.values()])

    await until(all_are_unready, _BUSY_SECONDS)
    print(f"told after {monotonic() - began:.1f} s")
    await asyncio.sleep(max(0, 40 - (monotonic() - began)))
    for address in two:
        address.back()
    began = monotonic()
    await installation.until_published(60)
    print(f"back after {monotonic() - began:.1f} s")
    for port in installation.metrics_ports.values():
        await until(lambda port=port: is_ready(port), 60)
    await installation.until_projected()
    assert (await findings(installation))["differences"] == []
