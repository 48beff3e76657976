"""Open pages follow what happens: nothing is missed, and nobody who reads or writes there is disturbed."""

from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, expect
from resolution_contracts import RecordDelivery, RecordRevisionRequested

from tests.http.browser import browser as a_browser
from tests.http.browser import log_in
from tests.http.firefox import firefox
from tests.support.commands import CLIENT, ask_extension, register
from tests.support.installation import Installation, until

ROLES = ("commands", "relay", "projections", "http")
IS_HIDDEN = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true})"


@pytest.fixture
async def chromium():
    async with a_browser() as started:
        yield started


async def begin(installation: Installation, *order_ids: str) -> None:
    """Starts the roles, and registers orders one after the other."""
    await installation.run(*ROLES)
    for order_id in order_ids:
        await installation.send(order_id, register())
        await shows(installation, order_id, "in progress")


async def shows(installation: Installation, order_id: str, status: str) -> None:
    """Returns once the read model has an order in a status."""
    await until(lambda: (page := installation.page(order_id)) and page["status"] == status)


async def _becomes(page: Page, *, hidden: bool) -> None:
    """What a browser does when somebody opens another tab, or comes back to this one."""
    await page.evaluate(IS_HIDDEN % str(hidden).lower())
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


async def test_a_page_misses_nothing(installation: Installation, chromium: Browser):
    await begin(installation, "order-1", "..")
    page = await log_in(chromium, installation.url, CLIENT)
    badge = page.locator("h1 .badge")

    # What comes between the page and its stream; once the stream is there, what comes after.
    async def after_the_delivery(route: Route) -> None:
        await installation.send("order-1", RecordDelivery())
        await shows(installation, "order-1", "delivered")
        await route.continue_()

    await page.route("**/live/**", after_the_delivery, times=1)
    await page.goto("/orders/order-1")
    await expect(badge).to_have_text("delivered")
    await installation.send("order-1", RecordRevisionRequested())
    await expect(badge).to_have_text("in progress")

    # A hidden tab has no stream. When it is looked at again, it shows what is so then.
    async with page.expect_event("requestfailed", lambda request: "/live/" in request.url):
        await _becomes(page, hidden=True)
    await installation.send("order-1", RecordDelivery())
    await shows(installation, "order-1", "delivered")
    assert await badge.text_content() == "in progress"
    async with page.expect_request("**/live/**"):
        await _becomes(page, hidden=False)
    await expect(badge).to_have_text("delivered")
    await seven_tabs_more(page.context)

    # The list is loaded once for the visit, and once for each change; a page whose address browsers resolve opens.
    loads: list[str] = []
    page.on("request", lambda request: loads.append(urlsplit(request.url).path))
    async with page.expect_request("**/live/**"):
        await page.goto("/")
    await installation.send("..", ask_extension())
    await expect(page.get_by_text("Waiting for your answer")).to_be_visible()
    assert loads.count("/") == 2
    await page.get_by_role("link", name="..", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Order ..")
    await expect(page.get_by_text("Accept the request")).to_be_visible()

    # A server that is away, and then does not know the token any more.
    await installation.stop("http")
    await expect(page.get_by_text("The connection is lost")).to_be_visible(timeout=15_000)
    await installation.run("http")
    await expect(page.get_by_text("Your login has ended")).to_be_visible(timeout=60_000)
    await expect(page.get_by_text("The connection is lost")).to_be_hidden()
    await page.get_by_role("link", name="Log in again").click()
    await expect(page.get_by_label("Client or freelancer id")).to_be_visible()


async def seven_tabs_more(context: BrowserContext) -> None:
    """A browser has six connections to a server. Hidden tabs leave them to the one that is looked at."""
    tabs = [await context.new_page() for _ in range(8)]
    for tab in tabs:
        await tab.add_init_script(IS_HIDDEN % "true")
        await tab.goto("/orders/order-1", timeout=10_000)
    for tab in tabs:
        await tab.close()


async def test_nobody_is_disturbed(installation: Installation, chromium: Browser):
    await begin(installation, "order-2", "order-1")
    page = await log_in(chromium, installation.url, CLIENT)
    await page.goto("/orders/order-1")
    summary, badge = page.get_by_text("Ask to cancel the order"), page.locator("h1 .badge")
    await summary.click()
    await installation.send("order-1", RecordDelivery())
    await expect(badge).to_have_text("delivered")
    await expect(summary).to_be_focused()
    why = page.get_by_label("Why do you want to cancel?")
    await expect(why).to_be_visible()

    # A form that was refused keeps its text.
    await why.evaluate("field => { field.required = false; field.maxLength = 9999; field.value = 'x'.repeat(2600) }")
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_role("alert")).to_contain_text("at most 2,500 characters, not 2,600")
    await expect(why).to_be_focused()
    await installation.send("order-1", RecordRevisionRequested())
    await expect(page.get_by_text("This page has changed.")).to_be_visible()
    assert len(await why.input_value()) == 2600
    await page.get_by_role("link", name="Show it as it is now").click()
    await expect(badge).to_have_text("in progress")

    # Who was about to use what is over is led to the content, not to the end of the page.
    await page.get_by_text("Ask for an order update").click()
    await installation.send("order-1", ask_extension())
    await expect(page.get_by_text("Accept the request")).to_be_visible()
    await expect(page.locator("#main")).to_be_focused()

    # On the list, what something happens to comes first; the focus stays on its order.
    await page.goto("/")
    link, rows = page.get_by_role("link", name="order-1", exact=True), page.get_by_role("rowheader")
    await expect(rows).to_have_text(["order-1", "order-2"])
    await link.focus()
    await installation.send("order-2", RecordDelivery())
    await expect(rows).to_have_text(["order-2", "order-1"])
    await expect(link).to_be_focused()


async def test_firefox_follows_too(installation: Installation):
    await begin(installation, "order-1")
    async with firefox(installation.url) as browser:
        await browser.goto("/login")
        await browser.write("#user", CLIENT)
        await browser.click("form button")
        await browser.wait_for("document.querySelector('h1')?.textContent === 'Orders'")
        await browser.resize(375, 812)
        assert await browser.run("document.documentElement.scrollWidth <= innerWidth")
        await browser.click("#order-order-1-open")
        await browser.wait_for("document.querySelector('h1 .badge')?.textContent === 'in progress'")
        await browser.click("#OpenDispute-cancellation-what")
        await installation.send("order-1", RecordDelivery())
        await browser.wait_for("document.querySelector('h1 .badge').textContent === 'delivered'")
        assert await browser.run("document.activeElement.id") == "OpenDispute-cancellation-what"
        await browser.write("#OpenDispute-cancellation-comment", "It became another job.")
        await installation.send("order-1", RecordRevisionRequested())
        await browser.wait_for("!document.getElementById('news').hidden")
        await browser.click("#OpenDispute-cancellation-send")
        await browser.wait_for("document.querySelector('.countdown') !== null")
        assert await browser.run("document.querySelector('.said').textContent") == (
            "Your request was sent. The other party has 48 hours to answer."
        )
        assert await browser.run("document.documentElement.scrollWidth <= innerWidth")
