"""Tells an open page that its content has changed (server-sent events). The page then loads itself again.

The page says what it shows, so that no change before the stream's start is missed. The stream ends when the viewer's
token expires.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from sse_starlette import EventSourceResponse, ServerSentEvent

from projections import inbox
from projections.framework.paging import Cursor, Page

from .api import digest, stream_of
from .gateway import Gateway
from .viewers import Viewer

_ORDERS_ON_A_PAGE = 50
_REQUESTS_ON_A_PAGE = 20
Cursors = dict[str, Cursor | None]
"""The page cursors of the lists on the page of orders: `orders`, `to_answer`, `awaiting_answer`."""


async def follow_order(gateway: Gateway, viewer: Viewer, order_id: str, shown: int) -> EventSourceResponse:
    """Streams later versions of an order than `shown`, the version on the page. Raises Problem (404, 503)."""
    await gateway.must_see(viewer, order_id)

    async def version() -> str:
        # A deadline that has passed may already be on the page, and its event not yet stored.
        return str(max(shown, await gateway.version(order_id)))

    return stream_of(_changes(gateway, viewer, str(shown), version))


def follow_orders(gateway: Gateway, viewer: Viewer, begins: Cursors, shown: str) -> EventSourceResponse:
    """Streams the marks of the page of orders that differ from `shown`, the mark of the page."""

    async def mark() -> str:
        return (await _marked(gateway, viewer, begins))[1]

    return stream_of(_changes(gateway, viewer, shown, mark))


@dataclass(frozen=True)
class OrdersPage:
    """The content of the page of orders."""

    requests: inbox.View
    orders: Page
    mark: str
    """A hash that changes when the page does."""

    @classmethod
    async def read(cls, gateway: Gateway, viewer: Viewer, begins: Cursors) -> "OrdersPage":
        """Reads the page of orders. Raises Problem (503)."""
        requests, mark = await _marked(gateway, viewer, begins)  # first, so that the stream reports later changes
        return cls(requests, await gateway.orders(viewer, begins["orders"], _ORDERS_ON_A_PAGE), mark)


async def _marked(gateway: Gateway, viewer: Viewer, begins: Cursors) -> tuple[inbox.View, str]:
    requests = await gateway.inbox(viewer, begins, _REQUESTS_ON_A_PAGE)
    versions = await gateway.versions(viewer, begins["orders"], _ORDERS_ON_A_PAGE)
    return requests, digest([requests.as_json(), versions])


async def _changes(
    gateway: Gateway, viewer: Viewer, shown: str, mark: Callable[[], Awaitable[str]]
) -> AsyncIterator[ServerSentEvent]:
    async for _ in gateway.ticks(viewer):
        if (now := await mark()) != shown:
            shown = now
            yield ServerSentEvent(now, event="changed", id=now)
