"""The walk of one command in docs/architecture.md: it passes the functions that the page names, in their order."""

import asyncio
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import reduce
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.support.commands import CLIENT, register
from tests.support.installation import Installation, until

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
STOP = re.compile(r"^ ?\d+\. `([\w/]+)\.py` `([\w.]+)`:", re.MULTILINE)
LONGEST_WALK = 12


def stops() -> dict[CodeType, str]:
    """The functions that the page names, in their order."""
    found = {}
    for path, name in STOP.findall(PAGE.read_text()):
        function: Any = reduce(getattr, name.split("."), import_module(path.replace("/", ".")))
        found[function.__code__] = name
    return found


@contextmanager
def watched(functions: dict[CodeType, str]) -> Iterator[list[str]]:
    """Gives the names of those that were called, each once, in the order of their first calls; in threads too."""
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        name = functions.get(frame.f_code)
        if event == "call" and name is not None and name not in called:
            called.append(name)

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(initializer=sys.setprofile, initargs=(note,)) as threads:
        loop.set_default_executor(threads)
        sys.setprofile(note)
        try:
            yield called
        finally:
            sys.setprofile(None)
            loop.set_default_executor(ThreadPoolExecutor())


async def test_a_command_passes_the_stops_of_the_page_in_their_order(installation: Installation):
    functions = stops()
    assert 0 < len(functions) <= LONGEST_WALK
    with watched(functions) as called:
        async with installation.here("commands"):
            await installation.publish("order-1", register())
            await until(lambda: installation.query("SELECT count(*) FROM outcomes") == [(1,)])
        async with installation.here("relay"):
            await installation.until_published()
        async with installation.here("projections"):
            await installation.until_projected()
        page = installation.page("order-1", CLIENT)
    assert page is not None
    assert page["order_id"] == "order-1"
    assert called == list(functions.values())
