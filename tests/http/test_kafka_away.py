"""What is answered with 202, or shown as sent, is on Kafka. While Kafka is away that is said, and within a bounded time."""

import asyncio
import contextlib
import os
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.embedded import Servers
from tests.faults.proxy import BehindProxy, Proxy
from tests.support.commands import CLIENT, register
from tests.support.installation import Installation, until

UPDATE = {"request": {"kind": "order_update", "message": "How is it going?"}}
BODY = {"order_id": "order-1", "command": "OpenDispute", "data": UPDATE}


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with Proxy.listening() as proxy:
        yield proxy


@pytest.fixture
async def away(proxy: Proxy, servers: Servers) -> AsyncIterator[Installation]:
    """An installation with running roles and an order, whose broker is behind the proxy."""
    with tempfile.TemporaryDirectory(prefix="rc-", ignore_cleanup_errors=True) as name:
        broker = BehindProxy(Path(name), proxy)
        try:
            kafka = await asyncio.to_thread(broker.start)
            async with Installation.fresh(Servers(servers.database, kafka)) as installation:
                await installation.run("commands", "relay", "projections", "http")
                await installation.send("order-1", register())
                await until(lambda: installation.page("order-1"))
                yield installation
                proxy.reachable = True
        finally:
            await asyncio.to_thread(broker.stop)


@pytest.fixture
async def client(away: Installation) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=away.url, timeout=60) as client:
        await client.post("/login", data={"user": CLIENT})
        yield client


def take_away(proxy: Proxy) -> None:
    proxy.reachable = False
    proxy.cut()


async def in_time(answer: Any, seconds: float) -> httpx.Response:
    started = time.monotonic()
    found: httpx.Response = await answer
    assert time.monotonic() - started < seconds
    return found


async def test_the_api_does_not_take_a_command_that_kafka_has_not(
    away: Installation, client: httpx.AsyncClient, proxy: Proxy
):
    take_away(proxy)
    for prefer, seconds in ({}, 12), ({"Prefer": "wait=3"}, 5), ({"Prefer": "wait=30"}, 12):
        answer = await in_time(client.post("/api/commands", json=BODY, headers=prefer), seconds)
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        said = answer.json()
        assert f"Idempotency-Key: {said['command_id']}" in said["detail"]
        assert "may still arrive" in said["detail"]

    proxy.reachable = True
    again = await client.post("/api/commands", json=BODY, headers={"Idempotency-Key": said["command_id"]})
    assert again.status_code == 202
    await away.until_published()
    first, *repeats = [o["data"] for o in await away.outcomes() if o["causationid"] == said["command_id"]]
    assert "duplicate" not in first
    assert all(repeat == first | {"duplicate": True} for repeat in repeats)  # the first may have arrived as well


async def test_the_page_does_not_say_sent_and_its_form_keeps_the_id_and_the_role_can_end(
    away: Installation, client: httpx.AsyncClient, proxy: Proxy
):
    take_away(proxy)
    id_ = str(uuid4())
    form = {"command": "OpenDispute", "form": "OpenDispute-order_update", "id": id_, "kind": "order_update"}
    page = await in_time(client.post("/orders/order-1", data=form | {"message": "How is it going?"}), 12)
    assert page.status_code == 503
    assert "was sent" not in page.text
    assert "not sent" in page.text
    assert "How is it going?" in page.text
    [wrong] = re.findall(
        r'<form method="post".*?</form>', page.text[page.text.index('role="alert"') - 600 :], re.DOTALL
    )[:1]
    assert f'name="id" value="{id_}"' in wrong

    started = time.monotonic()
    await away.stop("http")
    assert time.monotonic() - started < 15  # the supervisor kills it after 20


async def test_no_command_is_lost_whose_202_was_the_last_word_of_the_http_role(installation: Installation):
    await installation.run("commands", "relay", "projections", "http")
    await installation.send("order-1", register())
    await until(lambda: installation.page("order-1"))
    taken = []
    for _ in range(4):
        async with httpx.AsyncClient(base_url=installation.url, timeout=20) as client:
            await until(lambda client=client: _logged_in(client))
            pid = installation.supervisor.pid("http")
            assert pid is not None
            answers = await asyncio.gather(*(_until_killed(client, pid) for _ in range(5)))
            taken += [answer for answer in answers if answer]
            await until(lambda pid=pid: installation.supervisor.pid("http") not in (pid, None))
    assert len(taken) >= 4
    await installation.until_published()
    assert set(taken) <= {outcome["causationid"] for outcome in await installation.outcomes()}


async def _until_killed(client: httpx.AsyncClient, pid: int) -> str | None:
    """Sends a command and kills the role as soon as it is taken."""
    try:
        answer = await client.post("/api/commands", json=BODY)
    except httpx.TransportError:
        return None
    assert answer.status_code == 202
    with contextlib.suppress(ProcessLookupError):  # another command, taken a moment before, had it killed
        os.kill(pid, signal.SIGKILL)
    command_id: str = answer.json()["command_id"]
    return command_id


async def _logged_in(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.post("/login", data={"user": CLIENT})).status_code == 303
    except httpx.TransportError:
        return False
