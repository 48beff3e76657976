"""Tells an open page that what it shows has changed (server-sent events); the page then loads itself again.

A stream begins with what the page shows, so that nothing is missed between the two, and ends with the viewer's token.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from sse_starlette import EventSourceResponse, ServerSentEvent

from projections import inbox
from projections.framework.paging import Cursor, Page

from .api import digest, stream_of
from .gateway import Desk
from .viewers import Viewer

_ORDERS_ON_A_PAGE = 50
_REQUESTS_ON_A_PAGE = 20
Cursors = dict[str, Cursor | None]
"""Where each list on the page of orders begins: `orders`, `to_answer`, `awaiting_answer`."""


async def follow_order(desk: Desk, viewer: Viewer, order_id: str, shown: int) -> EventSourceResponse:
    """`shown`: the version on the page. Raises Problem (404, 503)."""
    await desk.order(viewer, order_id)

    async def version() -> str:
        # A deadline that has passed may already be on the page, and its event not yet stored.
        return str(max(shown, await desk.version(order_id)))

    return stream_of(_changes(desk, viewer, str(shown), version))


def follow_orders(desk: Desk, viewer: Viewer, begins: Cursors, shown: str) -> EventSourceResponse:
    """`shown`: the mark of the page."""

    async def mark() -> str:
        return (await _marked(desk, viewer, begins))[1]

    return stream_of(_changes(desk, viewer, shown, mark))


@dataclass(frozen=True)
class OrdersPage:
    """What the page of orders shows."""

    requests: inbox.View
    orders: Page
    mark: str
    """Differs when the page does."""

    @classmethod
    async def read(cls, desk: Desk, viewer: Viewer, begins: Cursors) -> "OrdersPage":
        """Raises Problem (503)."""
        requests, mark = await _marked(desk, viewer, begins)  # first, so that no later change is missed
        return cls(requests, await desk.orders(viewer, begins["orders"], _ORDERS_ON_A_PAGE), mark)


async def _marked(desk: Desk, viewer: Viewer, begins: Cursors) -> tuple[inbox.View, str]:
    requests = await desk.inbox(viewer, begins, _REQUESTS_ON_A_PAGE)
    versions = await desk.versions(viewer, begins["orders"], _ORDERS_ON_A_PAGE)
    return requests, digest([requests.as_json(), versions])


async def _changes(
    desk: Desk, viewer: Viewer, shown: str, mark: Callable[[], Awaitable[str]]
) -> AsyncIterator[ServerSentEvent]:
    async for _ in desk.beats(viewer):
        if (now := await mark()) != shown:
            shown = now
            yield ServerSentEvent(now, event="changed", id=now)
