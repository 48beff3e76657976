"""Links between clients and servers that a test can cut or silence: proxies in a thread of their own.

In a thread, so that a test that waits for its database doesn't hold up the link to it.
"""

import asyncio
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

from tests.faults.proxy import Proxy

_BELOW_EPHEMERAL = range(15_000, 32_000)


class Link:
    """A port that leads to a server's."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop
        self.port = proxy.port

    def lead_to(self, port: int) -> None:
        """Where new connections go from now on."""
        self._proxy.target = port

    def cut(self) -> None:
        """Ends every connection with a reset. New ones are let through."""
        _in(self._loop, self._proxy.cut)

    def vanish(self) -> None:
        """Drops every packet, of new connections too, until `appear`."""
        _in(self._loop, self._proxy.vanish)

    def appear(self) -> None:
        _in(self._loop, self._proxy.appear)


class Links:
    """Makes links, and closes all of them at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stack: AsyncExitStack) -> None:
        self._loop = loop
        self._stack = stack

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Links"]:
        loop, stack = asyncio.new_event_loop(), AsyncExitStack()
        thread = threading.Thread(target=loop.run_forever, name="links", daemon=True)
        thread.start()
        try:
            yield cls(loop, stack)
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)

    def to(self, port: int) -> Link:
        """A new link to a port on which a server listens, or will."""
        opening = self._stack.enter_async_context(Proxy.listening(stable_port()))
        link = Link(asyncio.run_coroutine_threadsafe(opening, self._loop).result(10), self._loop)
        link.lead_to(port)
        return link


def stable_port() -> int:
    """A free port that no outgoing connection takes while its server is down."""
    for port in random.sample(_BELOW_EPHEMERAL, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"None of 100 ports in {_BELOW_EPHEMERAL} is free on 127.0.0.1.")


def _in(loop: asyncio.AbstractEventLoop, do: Callable[[], None]) -> None:
    async def done() -> None:
        do()

    asyncio.run_coroutine_threadsafe(done(), loop).result(10)
