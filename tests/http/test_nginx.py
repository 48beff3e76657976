"""Behind a real nginx, which rewrites Host, on a host name of its own and under a path: forms, links, limits."""

import asyncio
import re
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from services.http import connection_limits
from services.http.viewers import COOKIE
from services.runtime.supervisor import Supervisor
from tests.http.browser import browser
from tests.http.nginx import free_port, nginx
from tests.http.serving import FakeDesk, served
from tests.support.commands import CLIENT, FREELANCER, register
from tests.support.installation import Installation, until

MARKET = "https://market.example"
SITES = [("resolution.conf", ""), ("resolution-path.conf", "/resolution")]
_LINK = re.compile(r'(?:href|src|action|data-[a-z-]+)="(/[^"]*)"')


@pytest.mark.parametrize(("site", "path"), SITES)
async def test_forms_redirects_and_links_lead_to_the_public_address(site: str, path: str):
    gateway = FakeDesk()
    async with (
        served(gateway, public_url=MARKET + path) as service,
        nginx(site, service) as url,
        httpx.AsyncClient(base_url=url + path) as client,
    ):
        ann = {"user": "ann"}
        for headers in ({"Origin": MARKET}, {"Origin": MARKET, "Sec-Fetch-Site": "same-origin"}):
            logged_in = await client.post("/login", data=ann, headers=headers)
            assert (logged_in.status_code, logged_in.headers["location"]) == (303, f"{path}/")
        for headers in ({"Origin": "https://evil.example"}, {"Origin": url}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await client.post("/login", data=ann, headers=headers)).status_code == 403

        for nowhere in ("/nothing", "/static/nothing"):
            assert f": {path}/openapi.json" in (await client.get(nowhere)).json()["detail"]
        missing = await client.get("/nothing", headers={"Accept": "text/html"})
        for page in (await client.get("/login"), missing):
            links = _LINK.findall(page.text)
            assert len(links) > 4
            for link in links:
                assert re.match(rf"{path}/(static/\S+\.\w+|login)?$", link), link
                if "/static/" in link:
                    assert (await client.get(url + link)).status_code == 200
        assert (await client.get("/login/")).status_code == 404  # no redirect to another host

        token = logged_in.cookies[COOKIE]
        body = {"order_id": "order-1", "command": "CancelOrder", "data": {}}
        sent = await client.post("/api/commands", json=body, headers={"Authorization": f"Bearer {token}"})
        assert sent.headers["location"] == f"{path}/api/orders/order-1/commands/11111111-1111-1111-1111-111111111111"
        [server] = (await client.get("/openapi.json")).json().get("servers", [{"url": ""}])
        assert server["url"] == path


async def test_a_stream_is_passed_on_at_once():
    class Telling(FakeDesk):
        async def history(self, viewer, order_id, after, limit):
            return [{"sequence": after + 1}] if after < 3 else []

        async def shown(self, order_id, version):
            pass

    async with (
        served(Telling()) as service,
        nginx("resolution.conf", service) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        await client.post("/login", data={"user": "ann"})
        async with client.stream("GET", "/api/orders/order-1/live") as live:
            lines = live.aiter_lines()
            ids = [line async for line in _first(lines, 2)]
        assert ids == ["id: 2", "id: 3"]


async def _first(lines, count):
    async for line in lines:
        if line.startswith("id: "):
            yield line
            count -= 1
        if not count:
            return


async def test_two_people_settle_a_dispute_under_a_path(installation: Installation):
    port = free_port()
    public = f"http://127.0.0.1:{port}/resolution"
    installation.settings = replace(installation.settings, http_public_url=public)
    installation.supervisor = Supervisor(installation.settings)
    await installation.run("commands", "relay", "projections", "http")
    await installation.send("logo-1", register())
    await until(lambda: installation.page("logo-1"))
    async with nginx("resolution-path.conf", installation.url, port), browser() as chromium:
        client, freelancer = [await _logged_in(chromium, public, user) for user in (CLIENT, FREELANCER)]
        await client.get_by_role("link", name="logo-1").click()
        await freelancer.goto(f"{public}/orders/logo-1")
        await client.get_by_text("Ask for an order update", exact=True).click()
        await client.get_by_label("What do you want to know?").fill("How is it going?")
        await client.get_by_role("button", name="Send").click()
        await expect(client.locator(".countdown")).to_be_visible()
        await expect(freelancer.get_by_text("How is it going?")).to_be_visible()  # by itself
        await freelancer.get_by_text("Decline the request", exact=True).click()
        await freelancer.get_by_role("button", name="Decline", exact=True).click()
        await expect(client.get_by_text("How is it going?")).to_be_visible()
        await expect(client.locator(".countdown")).to_have_count(0)
        await client.get_by_role("link", name="Orders", exact=True).first.click()
        await expect(client).to_have_url(f"{public}/")
        links = _LINK.findall(await client.content())
        assert len(links) > 5
        assert all(link.startswith("/resolution/") and link.count("/resolution/") == 1 for link in links), links


async def _logged_in(chromium: Browser, url: str, user: str) -> Page:
    page = await (await chromium.new_context()).new_page()
    await page.goto(f"{url}/login")
    await page.get_by_label("Client or freelancer id").fill(user)
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("heading", name="Orders", exact=True).wait_for()
    return page


HALVES = [
    b"GET / HTTP/1.1\r\nHost: x\r\nA: ",
    b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\nuser",
]


async def test_a_thousand_half_sent_requests_of_one_address_keep_nobody_waiting():
    async with (
        served() as service,
        nginx("resolution.conf", service) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        address = urlsplit(url)
        stuck = [
            await asyncio.open_connection(address.hostname, address.port, local_addr=("127.0.0.2", 0))
            for _ in range(1000)
        ]
        for number, (_, writer) in enumerate(stuck):
            writer.write(HALVES[number % 2])
        refused: set[int] = set()

        async def answered(number: int) -> None:
            if (await stuck[number][0].read(12)) == b"HTTP/1.1 429":
                refused.add(number)

        waiting = [asyncio.create_task(answered(number)) for number in range(1000)]
        await until(lambda: len(refused) >= 400)  # of 500 whose headers have come, 100 may wait for their bodies
        assert all(number % 2 for number in refused)
        assert (await client.get("/login")).status_code == 200
        assert (await client.post("/login", data={"user": "ann"})).status_code == 303
        await until(lambda: not connection_limits.Connection._waiting)
        for task in waiting:
            task.cancel()
        for _, writer in stuck:
            writer.close()


@pytest.mark.parametrize(("site", "path"), SITES)
async def test_the_service_gets_all_headers_that_it_takes(site: str, path: str):
    async with served() as service, nginx(site, service) as url, httpx.AsyncClient(base_url=url + path) as client:
        for size, status in ((20_000, 401), (32_000, 401), (33_000, 400)):
            answer = await client.get("/api/orders", headers={"Cookie": "x" * size})
            assert answer.status_code == status
        many = await client.get("/api/orders", headers={f"X-{n}": "x" * 20_000 for n in range(3)})
        assert many.status_code == 431
        assert many.headers["content-type"] == "application/problem+json"
