"""A real Chromium: Debian's, installed where it is missing."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page, async_playwright


def chromium() -> str:
    """The path of the executable. Raises CalledProcessError where it cannot be installed."""
    return shutil.which("google-chrome") or debians("chromium", "fonts-dejavu-core")


def debians(program: str, *packages: str) -> str:
    """The path of a program of Debian's package of that name, which is installed with others where it is missing.

    Raises CalledProcessError where that is not possible.
    """
    if found := shutil.which(program):
        return found
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*sudo, "apt-get", "update", "-qq"], check=True)
    subprocess.run(
        [*sudo, "apt-get", "install", "-y", "-qq", "--no-install-recommends", program, *packages],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return shutil.which(program) or program


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield started
        finally:
            await started.close()


async def log_in(browser: Browser, url: str, user: str, *, operator: bool = False, **options: object) -> Page:
    """A browser of its own for one person."""
    context = await browser.new_context(base_url=url, **options)  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto("/login")
    await page.get_by_label("Client or freelancer id").fill(user)
    if operator:
        await page.get_by_label("as an operator").check()
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("heading", level=1).wait_for()
    return page
