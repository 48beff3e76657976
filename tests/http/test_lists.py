"""Lists say how many there are, go on in pages, and fit a phone's screen."""

import asyncio
import re
from datetime import datetime

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from projections.framework.paging import Cursor
from tests.http.browser import browser as a_browser
from tests.http.browser import log_in
from tests.http.serving import served
from tests.http.without_servers import OneOrder
from tests.support.controls import CLIENT, opened, order_update, registered
from tests.support.installation import Installation

PHONE = {"viewport": {"width": 375, "height": 667}, "has_touch": True}
LONG_ORDER, HOSTILE = "x" * 64, "ann\u202eevil-" + "w" * 190

IN_ORDER = """element => {
    const text = element.lastChild, start = text.data.indexOf('(you)');
    const x = place => {
        const range = document.createRange();
        range.setStart(text, place);
        range.setEnd(text, place + 1);
        return range.getBoundingClientRect().x;
    };
    return x(start) < x(start + 4);
}"""
"""Whether the words "(you)" at the end of an element run from left to right."""


@pytest.fixture
async def chromium():
    async with a_browser() as started:
        yield started


BROKEN_WORDS = """() => [...document.querySelectorAll('.orders td, .orders thead th')].filter(cell => {
    const text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), range = document.createRange();
    while (text.nextNode()) for (const word of text.currentNode.data.matchAll(/\\S+/g)) {
        range.setStart(text.currentNode, word.index);
        range.setEnd(text.currentNode, word.index + word[0].length);
        if (range.getClientRects().length > 1) return true;
    }
}).map(cell => cell.textContent)"""
"""The cells in which a word continues on another line."""


async def _everything_fits(page: Page, path: str) -> None:
    await page.goto(path)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    outside = """[...document.querySelectorAll('main *')].filter(e => e.checkVisibility() &&
        !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML)"""
    assert await page.evaluate(outside) == [], path


async def test_lists_go_on_in_pages_that_fit_a_phone(installation: Installation, chromium: Browser):
    await installation.run("commands", "relay", "projections", "http")
    orders = [LONG_ORDER, *(f"order-{number:03}" for number in range(104))]
    await asyncio.gather(*(installation.publish(order, registered(client_id=HOSTILE)) for order in orders))
    await asyncio.gather(*(installation.publish(order, opened(order_update(), by=HOSTILE)) for order in orders[:45]))
    await installation.until_published()
    await installation.until_projected()

    async with httpx.AsyncClient(base_url=installation.url, timeout=20) as api:
        await api.post("/login", data={"user": HOSTILE})
        first = (await api.get("/api/orders")).json()
        rest = (await api.get("/api/orders", params={"cursor": first["next"]})).json()
        assert (first["total"], rest["total"], rest["next"]) == (105, 105, None)
        listed = [line["order_id"] for line in first["orders"] + rest["orders"]]
        assert (len(first["orders"]), sorted(listed)) == (100, sorted(orders))
        inbox = (await api.get("/api/inbox")).json()
        assert inbox["totals"] == {"to_answer": 0, "awaiting_answer": 45}
        waiting = inbox["awaiting_answer"]
        tenth = Cursor(datetime.fromisoformat(waiting[9]["respond_by"]), waiting[9]["order_id"])
        rest = (await api.get("/api/inbox", params={"awaiting_answer": str(tenth)})).json()
        assert [line["order_id"] for line in rest["awaiting_answer"]] == [line["order_id"] for line in waiting[10:]]
        assert (await api.get("/api/orders?cursor=x")).status_code == 422

    phone = await log_in(chromium, installation.url, HOSTILE, **PHONE)
    all_orders = phone.get_by_role("navigation", name="Pages of your orders")
    await expect(all_orders).to_contain_text("1 to 50 of 105")
    seen = []
    while True:
        seen += await phone.get_by_role("rowheader").all_text_contents()
        if not await all_orders.get_by_role("link", name="Next page").count():
            break
        await all_orders.get_by_role("link", name="Next page").click()
        await expect(all_orders).to_contain_text(re.compile(rf"^\s*{len(seen) + 1} to "))
    assert [order.strip() for order in seen] == listed
    await expect(all_orders).to_contain_text("101 to 105 of 105")
    await expect(phone.get_by_role("heading", name="Waiting for the other party's answer 45")).to_be_visible()

    await phone.goto("/")
    assert (await phone.locator(".who").bounding_box())["height"] < 40, "one line, however long the id"
    await phone.screenshot(path="build/screenshots/orders-phone.png")
    await phone.get_by_role("row").nth(1).screenshot(path="build/screenshots/order-card.png")

    # Price, date and the way to the order are on the screen without scrolling sideways.
    row = phone.get_by_role("row").nth(1)
    for part in (row.get_by_role("link"), row.get_by_text("$100.00"), row.locator("time")):
        await expect(part).to_be_visible()
    for path in ("/", "/?awaiting_answer=0_x", f"/orders/{LONG_ORDER}", "/metrics", "/orders/unknown"):
        await _everything_fits(phone, path)
    operator = await log_in(chromium, installation.url, "op", operator=True, **PHONE)
    for path in ("/operator", f"/orders/{LONG_ORDER}"):
        await _everything_fits(operator, path)

    # An id that turns the direction of writing turns nothing but itself.
    await phone.goto(f"/orders/{LONG_ORDER}")
    client = phone.get_by_role("definition").filter(has_text="(you)")
    assert await client.evaluate(IN_ORDER)


async def test_a_long_order_id_breaks_no_words_beside_it(chromium: Browser):
    gateway = OneOrder()
    gateway.order_id = LONG_ORDER
    gateway.judge(registered(client_id=CLIENT))
    async with served(gateway) as url:
        for width in (1280, 760):
            page = await log_in(chromium, url, CLIENT, viewport={"width": width, "height": 700})
            assert await page.evaluate(BROKEN_WORDS) == [], width
            await _everything_fits(page, "/")
