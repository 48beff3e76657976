"""What people type into forms reaches the server as they typed it, and nobody acts in somebody else's tab."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from tests.http.browser import browser as a_browser
from tests.http.browser import log_in
from tests.http.firefox import firefox
from tests.http.serving import served
from tests.http.without_servers import OneOrder
from tests.support.controls import CLIENT, FREELANCER, registered

TYPED = ["1,5", "1.234,50", "1 000", "1.000", "1e1"]
RIGHT_FORM = "at most 2 decimals after a point and without other separators, such as 1250.00."
IS_HIDDEN = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true})"


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with a_browser() as started:
        yield started


@pytest.fixture
def gateway() -> OneOrder:
    gateway = OneOrder()
    gateway.judge(registered())
    return gateway


async def test_chromium_sends_the_numbers_that_were_typed(gateway: OneOrder, chromium: Browser):
    before = len(gateway.events)
    async with served(gateway) as url:
        page = await log_in(chromium, url, FREELANCER)
        await page.goto("/orders/order-1")
        await page.get_by_text("Offer a partial refund").click()
        for typed in TYPED:
            amount = page.get_by_label("Amount in USD")
            await amount.fill("")
            await amount.press_sequentially(typed)
            await page.get_by_label("Explanation").fill("One draft less.")
            await page.get_by_label("Reason, which stays confidential").select_option("other")
            await page.get_by_role("button", name="Send").click()
            await expect(page.get_by_role("alert")).to_contain_text(f"{RIGHT_FORM} You entered “{typed}”.")
            await expect(amount).to_have_value(typed)
        await page.goto("/orders/order-1")
        await page.get_by_text("Extend the delivery date").click()
        await page.get_by_label("Days to add to the delivery date, 1 to 60").press_sequentially("1,5")
        await page.get_by_label("Note to the client").fill("The fonts are late.")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("alert")).to_contain_text("from 1 to 60. You entered “1,5”.")
    assert len(gateway.events) == before


async def test_firefox_sends_the_numbers_that_were_typed(gateway: OneOrder):
    before = len(gateway.events)
    form = "OfferPartialRefund-partial_refund"
    async with served(gateway) as url, firefox(url) as browser:
        await browser.goto("/login")
        await browser.write("#user", FREELANCER)
        await browser.click("form button")
        await browser.wait_for("document.querySelector('h1')?.textContent === 'Orders'")
        for typed in TYPED[:3]:
            await browser.goto("/orders/order-1")
            await browser.click(f"#{form}-what")
            await browser.write(f"#{form}-amount", typed)
            await browser.write(f"#{form}-explanation", "One draft less.")
            await browser.run(f"document.getElementById('{form}-reason').value = 'other'")
            await browser.click(f"#{form}-send")
            await browser.wait_for("document.querySelector('[role=alert].wrong') !== null")
            said = await browser.run("document.querySelector('[role=alert].wrong').textContent")
            assert said.endswith(f"{RIGHT_FORM} You entered “{typed}”.")
    assert len(gateway.events) == before


async def test_a_tab_of_somebody_who_has_logged_out_stays_hers(gateway: OneOrder, chromium: Browser):
    before = len(gateway.events)
    async with served(gateway) as url:
        first = await log_in(chromium, url, CLIENT)
        await first.goto("/orders/order-1")
        await first.get_by_text("Ask for an order update").click()
        second = await first.context.new_page()
        for user in ("eve", FREELANCER):  # the order does not exist for eve
            await second.goto("/login")
            await second.get_by_label("Client or freelancer id").fill(user)
            await second.get_by_role("button", name="Log in").click()
            await second.wait_for_url(f"{url}/")
            await first.evaluate("document.getElementById('other').hidden = true")
            for hidden in ("true", "false"):  # it is looked at again
                await first.evaluate(IS_HIDDEN % hidden)
                await first.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            await expect(first.get_by_text("Somebody else has logged in with this browser")).to_be_visible()
            await expect(first.locator("#content")).to_contain_text(f"{CLIENT} (you)")
        await first.get_by_label("What do you want to know?").fill("How is it going?")
        await first.get_by_role("button", name="Send").click()
        await expect(first.locator("main")).to_contain_text(
            f"This page was opened as {CLIENT}; you are now logged in as {FREELANCER}."
        )
        await expect(first.get_by_label("What you wrote, to copy")).to_have_value("How is it going?")
    assert len(gateway.events) == before
