"""A real Firefox: Debian's, which Playwright cannot drive. It speaks Marionette, the protocol below WebDriver."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.http.browser import debians
from tests.support.installation import until

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # what WebDriver calls a reference to an element
_ANSWERED_WITHIN_SECONDS = 120  # 30 s were once too few on a busy machine
_PREFERENCES = {
    "marionette.port": 0,  # a free one, which Firefox writes into its profile
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.disabledForTesting": True,
}


class Firefox:
    """A browser with one window. The methods raise RuntimeError with Firefox's word where it refuses."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._url, self._reader, self._writer = url, reader, writer
        self._sent = 0

    async def ask(self, command: str, **parameters: Any) -> Any:
        """Sends a command and returns its answer."""
        self._sent += 1
        message = json.dumps([0, self._sent, command, parameters]).encode()
        self._writer.write(b"%d:%b" % (len(message), message))
        _, _, error, result = await self.read()
        if error:
            raise RuntimeError(f"{command}: {error['message']}")
        return result.get("value", result)

    async def read(self) -> Any:
        length = await asyncio.wait_for(self._reader.readuntil(b":"), _ANSWERED_WITHIN_SECONDS)
        return json.loads(await self._reader.readexactly(int(length[:-1])))

    async def goto(self, path: str) -> None:
        await self.ask("WebDriver:Navigate", url=self._url + path)

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return await self.ask("WebDriver:ExecuteScript", script=f"return {script}", args=[])

    async def wait_for(self, script: str) -> None:
        """Returns once the expression is true."""
        await until(lambda: self.run(script))

    async def click(self, selector: str) -> None:
        await self.ask("WebDriver:ElementClick", id=await self._element(selector))

    async def write(self, selector: str, text: str) -> None:
        """Types into a field."""
        await self.ask("WebDriver:ElementSendKeys", id=await self._element(selector), text=text)

    async def resize(self, width: int, height: int) -> None:
        await self.ask("WebDriver:SetWindowRect", width=width, height=height)

    async def _element(self, selector: str) -> str:
        found = await self.ask("WebDriver:FindElement", using="css selector", value=selector)
        element: str = found[_ELEMENT]
        return element


@asynccontextmanager
async def firefox(url: str) -> AsyncIterator[Firefox]:
    """A new one without a window on the screen. Raises CalledProcessError where it cannot be installed."""
    program = await asyncio.to_thread(debians, "firefox-esr")
    with tempfile.TemporaryDirectory() as profile:
        preferences = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in _PREFERENCES.items()]
        Path(profile, "user.js").write_text("\n".join(preferences))
        process = await asyncio.create_subprocess_exec(
            program, "--headless", "--marionette", "--no-remote", "--profile", profile,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = await until(lambda: _port(Path(profile, "MarionetteActivePort")))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            browser = Firefox(url, reader, writer)
            await browser.read()  # it says hello
            await browser.ask("WebDriver:NewSession", strictFileInteractability=True)
            yield browser
            writer.close()
        finally:
            process.terminate()
            await process.wait()


async def _port(file: Path) -> int:
    return int(file.read_text() or 0) if file.exists() else 0
