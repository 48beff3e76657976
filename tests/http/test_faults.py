"""The http role dies, its database connections are cut, clients dawdle: whoever asks again is answered."""

import asyncio
import os
import signal
from urllib.parse import urlsplit

import httpx

from tests.support.commands import CLIENT, register
from tests.support.installation import Installation, until


async def _page(client: httpx.AsyncClient) -> httpx.Response | None:
    try:
        answer = await client.get("/orders/order-1", headers={"Accept": "text/html"})
    except httpx.TransportError:
        return None
    return answer if answer.status_code == 200 and "order-1" in answer.text else None


async def test_pages_come_back_at_the_same_address(installation: Installation):
    await installation.run("commands", "relay", "projections", "http")
    await installation.send("order-1", register())
    await until(lambda: installation.page("order-1"))
    url = installation.url
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        await client.post("/login", data={"user": CLIENT})
        assert await _page(client)

        installation.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await until(lambda: _page(client))

        pid = installation.supervisor.pid("http")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: _login(client))  # its tokens were of the process that died
        await until(lambda: _page(client))
        assert installation.url == url


async def _login(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.post("/login", data={"user": CLIENT})).status_code == 303
    except httpx.TransportError:
        return False


async def test_a_database_that_is_away_is_a_problem_that_says_so(installation: Installation):
    await installation.run("commands", "relay", "projections", "http")
    await installation.send("order-1", register())
    await until(lambda: installation.page("order-1"))
    async with httpx.AsyncClient(base_url=installation.url, timeout=20) as client:
        await client.post("/login", data={"user": CLIENT})
        assert await _page(client)
        name = urlsplit(installation.settings.database).path[1:]
        installation.query("ALTER SCHEMA order_page RENAME TO away")
        answer = await client.get("/api/orders/order-1")
        assert answer.status_code == 503
        assert "read models" in answer.json()["detail"]
        assert name not in answer.text
        installation.query("ALTER SCHEMA away RENAME TO order_page")
        assert await _page(client)


async def test_clients_that_dawdle_do_not_keep_others_waiting(installation: Installation):
    await installation.run("commands", "relay", "projections", "http")
    await installation.send("order-1", register())
    await until(lambda: installation.page("order-1"))
    address = urlsplit(installation.url)
    dawdlers = [await asyncio.open_connection(address.hostname, address.port) for _ in range(200)]
    for _, writer in dawdlers:
        writer.write(b"POST /api/commands HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n{")
    async with httpx.AsyncClient(base_url=installation.url, timeout=5) as client:
        await client.post("/login", data={"user": CLIENT})
        assert await _page(client)
    for _, writer in dawdlers:
        writer.close()
