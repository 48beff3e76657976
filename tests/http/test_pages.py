"""Two people in two browsers settle disputes through the pages, the real services, Kafka and PostgreSQL."""

import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.http.browser import browser as a_browser
from tests.http.browser import log_in
from tests.support.commands import CLIENT, FREELANCER, register
from tests.support.installation import Installation, until

ALL = ("commands", "relay", "timer", "projections", "http")
PICTURES = Path("build/screenshots")
AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with a_browser() as started:
        yield started


async def _open(page: Page, action: str) -> None:
    await page.get_by_text(action, exact=True).click()


async def _picture(page: Page, name: str) -> None:
    await page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


async def _has_no_violation(page: Page) -> None:
    await page.evaluate(AXE)
    found = await page.evaluate("async () => (await axe.run()).violations.map(v => v.id + ': ' + v.nodes[0].html)")
    assert found == []


async def test_two_people_play_every_kind_of_dispute(installation: Installation, chromium: Browser):
    await installation.run(*ALL)
    await installation.send("logo-1", register(price=12_500))
    client = await log_in(chromium, installation.url, CLIENT)
    freelancer = await log_in(chromium, installation.url, FREELANCER, color_scheme="dark")
    await until(lambda: installation.page("logo-1"))

    # An order update, answered; it appears at the other party by itself.
    await client.goto("/")
    await client.get_by_role("link", name="logo-1", exact=True).click()
    await freelancer.goto("/orders/logo-1")
    await _open(client, "Ask for an order update")
    await client.get_by_label("What do you want to know?").fill("How is the <b>logo</b>?")
    await client.get_by_role("button", name="Send").click()
    await expect(client.get_by_role("status").first).to_contain_text("48 hours")
    await expect(freelancer.locator(".countdown")).to_contain_text("47 h 59 min")
    await expect(freelancer.get_by_text("How is the <b>logo</b>?")).to_be_visible()
    await _picture(client, "order-client")
    await _open(freelancer, "Accept the request")
    await _picture(freelancer, "order-freelancer-dark")
    await freelancer.get_by_label("Your update").fill("Two drafts are ready.")
    await freelancer.get_by_role("button", name="Accept", exact=True).click()
    await expect(client.get_by_text("Two drafts are ready.")).to_be_visible()

    # An extension, declined, and one withdrawn.
    for answer in ("Decline", "Withdraw"):
        await _open(freelancer, "Extend the delivery date")
        await freelancer.get_by_label("Days to add").fill("3")
        await freelancer.get_by_label("Note to the client").fill("The fonts are late.")
        await freelancer.get_by_role("button", name="Send").click()
        if answer == "Decline":
            await expect(client.get_by_text("Decline the request")).to_be_visible()
            await _open(client, "Decline the request")
            await client.get_by_role("button", name="Decline", exact=True).click()
        else:
            await _open(freelancer, "Withdraw your request")
            await freelancer.get_by_role("button", name="Withdraw", exact=True).click()
        await expect(freelancer.locator(".countdown")).to_have_count(0)

    # A partial refund over the limit is refused in place (R8); one below is accepted.
    await _open(freelancer, "Offer a partial refund")
    amount = freelancer.get_by_label(re.compile(r"Amount in USD, up to \$75\.00"))
    await amount.fill("75.01")
    await freelancer.get_by_label("Explanation").fill("One draft is late.")
    await freelancer.get_by_label("Reason, which stays confidential").select_option("minor_dissatisfaction")
    await freelancer.get_by_role("button", name="Send").click()
    await expect(freelancer.get_by_role("alert")).to_contain_text("60%")
    await expect(amount).to_be_focused()
    await _picture(freelancer, "refused")
    await amount.fill("20.00")
    await freelancer.get_by_role("button", name="Send").click()
    await expect(client.get_by_text("$20.00 back")).to_be_visible()
    assert "minor" not in await client.content()
    assert "minor dissatisfaction" in await freelancer.content()
    await _open(client, "Accept the request")
    await client.get_by_role("button", name="Accept", exact=True).click()
    await expect(freelancer.get_by_text("$20.00, processing")).to_be_visible()

    # A cancellation, agreed.
    await _open(freelancer, "Ask to cancel the order")
    await freelancer.get_by_label("Reason").select_option("scope_changed")
    await freelancer.get_by_label("Why do you want to cancel?").fill("It became another job.")
    await freelancer.get_by_role("button", name="Send").click()
    await expect(client.get_by_text("Accept the request")).to_be_visible()
    await client.goto("/")
    await expect(client.get_by_role("heading", name="Waiting for your answer")).to_be_visible()
    await _picture(client, "orders")
    await _has_no_violation(client)
    await client.get_by_role("link", name="logo-1", exact=True).click()
    await _open(client, "Accept the request")
    await _has_no_violation(client)
    await client.get_by_role("button", name="Accept", exact=True).click()
    await expect(client.get_by_text("$105.00 goes back to the client")).to_be_visible()
    await expect(freelancer.get_by_text("the Resolution Center is closed for it")).to_be_visible()

    await freelancer.goto("/metrics")
    await _picture(freelancer, "metrics-dark")
    await _has_no_violation(freelancer)
    operator = await log_in(chromium, installation.url, "op", operator=True)
    await expect(operator.get_by_role("heading", name="Operations")).to_be_visible()
    await _picture(operator, "operations")
    await _has_no_violation(operator)


async def test_R3_an_auto_accept_appears_by_itself(installation: Installation, chromium: Browser):
    await installation.run(*ALL, scale=34_560)
    await installation.send("logo-2", register())
    await until(lambda: installation.page("logo-2"))
    phone = await log_in(chromium, installation.url, CLIENT, **PHONE)
    freelancer = await log_in(chromium, installation.url, FREELANCER)
    await phone.goto("/orders/logo-2")
    await freelancer.goto("/orders/logo-2")
    await _open(freelancer, "Extend the delivery date")
    await freelancer.get_by_label("Days to add").fill("5")
    await freelancer.get_by_label("Note to the client").fill("The fonts are late.")
    await freelancer.get_by_role("button", name="Send").click()
    await expect(phone.locator(".countdown")).to_be_visible()
    await _picture(phone, "order-phone")
    await expect(phone.get_by_text("Nobody answered within 48 hours")).to_be_visible(timeout=15_000)
    assert await phone.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_the_pages_work_without_javascript(installation: Installation, chromium: Browser):
    await installation.run(*ALL)
    await installation.send("logo-3", register())
    await until(lambda: installation.page("logo-3"))
    page = await log_in(chromium, installation.url, CLIENT, java_script_enabled=False)
    await page.goto("/orders/logo-3")
    await _open(page, "Ask for an order update")
    await page.get_by_label("What do you want to know?").fill("How is it going?")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator(".countdown")).to_contain_text("47 h 59 min left")
    await _open(page, "Withdraw your request")
    await page.get_by_role("button", name="Withdraw", exact=True).click()
    await expect(page.get_by_text("You withdrew your request.")).to_be_visible()
